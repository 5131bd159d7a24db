{% set half_life, live_half_life = var('transition_half_life_days'), var('live_transition_half_life_days') -%}

with pairs as (
    select * from {{ ref('int_recipe_pairs') }}
),

windows as (
    select * from {{ ref('model_windows') }}
),

days as (
    select
        paired_on,
        max(paired_on) over () - paired_on as age
    from pairs
    group by paired_on
),

ages as (
    select
        days.paired_on,
        days.age,
        windows.cut_on - 1 - days.paired_on as holdout_age,
        windows.learn_from_on - 1 - days.paired_on as learning_age
    from days
    cross join windows
),

-- At each moment the last day known by then counts whole, and no later one counts.
decays as (
    select
        paired_on,
        {{ decay('age', half_life) }} as weight,
        {{ decay('age', live_half_life) }} as live_weight,
        {{ decay('holdout_age', half_life) }} as holdout_weight,
        {{ decay('holdout_age', live_half_life) }} as holdout_live_weight,
        {{ decay('learning_age', half_life) }} as learning_weight,
        {{ decay('learning_age', live_half_life) }} as learning_live_weight
    from ages
)

select
    pairs.from_recipe_id,
    pairs.to_recipe_id,
    sum(pairs.forward_weight * decays.weight) as weight,
    sum(pairs.forward_weight * decays.live_weight) as live_weight,
    sum(pairs.forward_weight * decays.holdout_weight) as holdout_weight,
    sum(pairs.forward_weight * decays.holdout_live_weight) as holdout_live_weight,
    sum(pairs.forward_weight * decays.learning_weight) as learning_weight,
    sum(pairs.forward_weight * decays.learning_live_weight) as learning_live_weight
from pairs
inner join decays on pairs.paired_on = decays.paired_on
group by pairs.from_recipe_id, pairs.to_recipe_id
