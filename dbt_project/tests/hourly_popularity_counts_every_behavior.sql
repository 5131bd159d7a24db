{{ config(meta={'dagster': {'ref': {'name': 'fct_hourly_recipe_popularity'}}}) }}

with behaviors as (
    select
        count(case when event_name = 'recipe_view' then 1 end) as views,
        count(case when event_name in {{ interaction_event_names() }} then 1 end) as interactions
    from {{ ref('int_behaviors_deduplicated') }}
    where recipe_id is not null
),

popularity as (
    select
        coalesce(sum(views), 0) as views,
        coalesce(sum(interactions), 0) as interactions
    from {{ ref('fct_hourly_recipe_popularity') }}
)

select
    behaviors.*,
    popularity.*
from behaviors
cross join popularity
where behaviors.views != popularity.views or behaviors.interactions != popularity.interactions
