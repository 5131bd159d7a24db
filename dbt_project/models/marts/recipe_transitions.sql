with pairs as (
    select * from {{ ref('int_recipe_pairs') }}
),

holdout as (
    select * from {{ ref('model_holdout') }}
),

newest as (
    select max(paired_on) as newest_on from pairs
),

decayed as (
    select
        pairs.from_recipe_id,
        pairs.to_recipe_id,
        pairs.paired_on < holdout.cut_on as is_before_cut,
        pairs.forward_weight
        * power(
            0.5,
            cast(newest.newest_on - pairs.paired_on as double) / {{ var('transition_half_life_days') }}
        ) as forward_weight
    from pairs
    cross join newest
    cross join holdout
),

summed as (
    select
        from_recipe_id,
        to_recipe_id,
        sum(forward_weight) as forward_weight,
        sum(case when is_before_cut then forward_weight else 0 end) as holdout_forward_weight
    from decayed
    group by from_recipe_id, to_recipe_id
),

both_directions as (
    select
        from_recipe_id,
        to_recipe_id,
        forward_weight as weight,
        holdout_forward_weight as holdout_weight
    from summed
    union all
    select
        to_recipe_id as from_recipe_id,
        from_recipe_id as to_recipe_id,
        forward_weight * {{ var('transition_reverse_share') }} as weight,
        holdout_forward_weight * {{ var('transition_reverse_share') }} as holdout_weight
    from summed
)

select
    from_recipe_id,
    to_recipe_id,
    sum(weight) as weight,
    sum(holdout_weight) as holdout_weight
from both_directions
group by from_recipe_id, to_recipe_id
