{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='popularity_hour_at',
    cluster_by=['cast(popularity_hour_at as date)'],
    pre_hook="{{ delete_backfilled_days('cast(popularity_hour_at as date)') }}"
) }}

with behaviors as (
    select
        *,
        date_trunc('hour', occurred_at) as popularity_hour_at
    from {{ ref('int_behaviors_deduplicated') }}
    where recipe_id is not null
),

arrived_hours as (
    select distinct popularity_hour_at
    from behaviors
    where {{ arrived_since_last_run() }}
)

select
    recipe_id,

    count(case when event_name = 'recipe_impression' then 1 end) as impressions,
    count(case when event_name = 'recipe_view' then 1 end) as views,
    count(case when event_name = 'recipe_favorite' then 1 end) as favorites,
    count(case when event_name = 'recipe_unfavorite' then 1 end) as unfavorites,
    count(case when event_name = 'shopping_list_add' then 1 end) as list_adds,
    count(case when event_name = 'recipe_cooked' then 1 end) as cookings,
    count(case when event_name = 'recommendation_impression' then 1 end) as recommendation_impressions,
    count(case when event_name = 'recommendation_click' then 1 end) as recommendation_clicks,
    count(case when event_name in {{ interaction_event_names() }} then 1 end) as interactions,
    count(distinct user_id) as users,

    popularity_hour_at,
    max(loaded_at) as loaded_at
from behaviors
where popularity_hour_at in (select popularity_hour_at from arrived_hours)
group by recipe_id, popularity_hour_at
