{% set half_life = '(' ~ var('popularity_half_life_days') ~ ' * 86400)' -%}
{% set live_half_life = '(' ~ var('live_popularity_half_life_days') ~ ' * 86400)' -%}

with recipes as (
    select * from {{ ref('dim_recipes') }}
),

popularity as (
    select
        recipe_id,
        popularity_hour_at,
        interactions,
        {{ weighted_interactions() }} as weighted_interactions
    from {{ ref('fct_hourly_recipe_popularity') }}
),

windows as (
    select
        cast(cut_on as timestamp) as cut_at,
        cast(learn_from_on as timestamp) as learn_from_at
    from {{ ref('model_windows') }}
),

hours as (
    select
        popularity_hour_at,
        max(popularity_hour_at) over () as newest_at
    from popularity
    group by popularity_hour_at
),

ages as (
    select
        hours.popularity_hour_at,
        {{ seconds_between('hours.popularity_hour_at', 'hours.newest_at') }} as age,
        {{ seconds_between('hours.popularity_hour_at', 'windows.cut_at') }} - 3600 as holdout_age,
        {{ seconds_between('hours.popularity_hour_at', 'windows.learn_from_at') }} - 3600 as learning_age
    from hours
    cross join windows
),

-- At each moment the last hour known by then counts whole, and no later one counts.
decays as (
    select
        popularity_hour_at,
        holdout_age >= 0 as is_before_holdout,
        learning_age >= 0 as is_before_learning,
        {{ decay('age', half_life) }} as popularity,
        {{ decay('holdout_age', half_life) }} as holdout_popularity,
        {{ decay('learning_age', half_life) }} as learning_popularity,
        {{ decay('holdout_age', live_half_life) }} as holdout_live_popularity,
        {{ decay('learning_age', live_half_life) }} as learning_live_popularity
    from ages
),

counted as (
    select
        popularity.recipe_id,
        sum(popularity.interactions) as interactions,
        sum(case when decays.is_before_holdout then popularity.interactions end) as holdout_interactions,
        sum(case when decays.is_before_learning then popularity.interactions end) as learning_interactions,
        sum(popularity.interactions * decays.popularity) as popularity,
        sum(popularity.interactions * decays.holdout_popularity) as holdout_popularity,
        sum(popularity.interactions * decays.learning_popularity) as learning_popularity,
        sum(popularity.weighted_interactions * decays.holdout_live_popularity) as holdout_live_popularity,
        sum(popularity.weighted_interactions * decays.learning_live_popularity) as learning_live_popularity
    from popularity
    inner join decays on popularity.popularity_hour_at = decays.popularity_hour_at
    group by popularity.recipe_id
)

select
    recipes.recipe_id,
    {% for number in ['interactions', 'holdout_interactions', 'learning_interactions'] -%}
    cast(coalesce(counted.{{ number }}, 0) as bigint) as {{ number }},
    {% endfor %}
    coalesce(counted.popularity, 0) as popularity,
    coalesce(counted.holdout_popularity, 0) as holdout_popularity,
    coalesce(counted.learning_popularity, 0) as learning_popularity,
    coalesce(counted.holdout_live_popularity, 0) as holdout_live_popularity,
    coalesce(counted.learning_live_popularity, 0) as learning_live_popularity
from recipes
left join counted on recipes.recipe_id = counted.recipe_id
