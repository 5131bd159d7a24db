{{ config(meta={'dagster': {'ref': {'name': 'fct_recipe_views'}}}) }}

-- Staging goes on while this runs, so only batches that analytics has read are compared.
with staged as (
    select
        event_name,
        count(distinct event_id) as event_count
    from {{ ref('stg_kurashiru__behavior_events') }}
    where
        batch_id <= (select max(batch_id) from {{ ref('int_behaviors_deduplicated') }})
        and event_name in (
            'recipe_view',
            'search',
            'recipe_favorite',
            'recipe_unfavorite',
            'shopping_list_add',
            'recipe_cooked',
            'recommendation_impression',
            'recommendation_click'
        )
    group by event_name
),

counted as (
    select
        'recipe_view' as event_name,
        count(*) as event_count
    from {{ ref('fct_recipe_views') }}
    union all
    select
        'search' as event_name,
        count(*) as event_count
    from {{ ref('fct_searches') }}
    union all
    select
        case when is_added then 'recipe_favorite' else 'recipe_unfavorite' end as event_name,
        count(*) as event_count
    from {{ ref('fct_favorites') }}
    group by is_added
    union all
    select
        case cooking_step when 'cooked' then 'recipe_cooked' else 'shopping_list_add' end as event_name,
        count(*) as event_count
    from {{ ref('fct_cooking') }}
    group by cooking_step
    union all
    select
        'recommendation_impression' as event_name,
        count(*) as event_count
    from {{ ref('fct_recommendation_impressions') }}
    union all
    select
        'recommendation_click' as event_name,
        count(*) as event_count
    from {{ ref('fct_recommendation_clicks') }}
)

select
    coalesce(staged.event_name, counted.event_name) as event_name,
    coalesce(staged.event_count, 0) as staged_count,
    coalesce(counted.event_count, 0) as fact_count
from staged
full outer join counted on staged.event_name = counted.event_name
where coalesce(staged.event_count, 0) != coalesce(counted.event_count, 0)
