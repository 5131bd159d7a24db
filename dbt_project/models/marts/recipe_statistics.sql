with recipes as (
    select * from {{ ref('dim_recipes') }}
),

popularity as (
    select * from {{ ref('fct_hourly_recipe_popularity') }}
),

holdout as (
    select * from {{ ref('model_holdout') }}
),

newest as (
    select max(popularity_hour_at) as newest_at from popularity
),

decayed as (
    select
        popularity.recipe_id,
        cast(popularity.popularity_hour_at as date) < holdout.cut_on as is_before_cut,
        popularity.interactions,
        popularity.interactions
        * power(
            0.5,
            cast({{ seconds_between('popularity.popularity_hour_at', 'newest.newest_at') }} as double)
            / ({{ var('popularity_half_life_days') }} * 86400)
        ) as popularity
    from popularity
    cross join newest
    cross join holdout
),

counted as (
    select
        recipe_id,
        cast(sum(interactions) as bigint) as interactions,
        sum(popularity) as popularity,
        cast(sum(case when is_before_cut then interactions else 0 end) as bigint) as holdout_interactions,
        sum(case when is_before_cut then popularity else 0 end) as holdout_popularity
    from decayed
    group by recipe_id
)

select
    recipes.recipe_id,
    coalesce(counted.interactions, 0) as interactions,
    coalesce(counted.popularity, 0) as popularity,
    coalesce(counted.holdout_interactions, 0) as holdout_interactions,
    coalesce(counted.holdout_popularity, 0) as holdout_popularity
from recipes
left join counted on recipes.recipe_id = counted.recipe_id
