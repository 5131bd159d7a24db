with behaviors as (
    select
        *,
        coalesce(search_query, ingredient) as detail
    from {{ ref('int_behaviors_deduplicated') }}
),

interactions as (
    select
        event_id,
        user_id,
        recipe_id,
        occurred_at,
        lag(recipe_id) over (partition by user_id order by occurred_at, event_id) as previous_recipe_id
    from behaviors
    where
        occurred_on >= (select cut_on from {{ ref('model_holdout') }})
        and event_name in {{ interaction_event_names() }}
        and recipe_id is not null
),

-- Foretold are changes from one recipe to another; which ones is drawn by chance, the same in every run.
targets as (
    select
        event_id,
        user_id,
        recipe_id,
        occurred_at,
        max(occurred_at) over () as as_of
    from interactions
    where recipe_id != previous_recipe_id
    order by md5(cast(event_id as varchar)), event_id
    limit {{ var('holdout_queries') }}
)

-- A profile speaks of one moment, so every query's past is moved in time such that the query is asked at `as_of`.
select
    cast(targets.event_id as varchar) as query_id,
    cast(behaviors.event_id as varchar) as event_id,
    behaviors.recipe_id,
    targets.recipe_id as target_recipe_id,

    behaviors.event_name,
    behaviors.detail,

    {{ plus_time_between('behaviors.occurred_at', 'targets.occurred_at', 'targets.as_of') }} as occurred_at,
    targets.as_of
from targets
inner join behaviors on targets.user_id = behaviors.user_id and targets.occurred_at > behaviors.occurred_at
where behaviors.event_name in {{ meaningful_event_names() }}
qualify
    row_number() over (
        partition by targets.event_id
        order by behaviors.occurred_at desc, behaviors.event_id
    ) <= {{ env_var('KURASHIRU_RECENT_BEHAVIORS', '50') }}
