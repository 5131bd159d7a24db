with queries as (
    select * from {{ ref('model_queries') }}
),

-- When so many later behaviours are there that a profile remembers this one no more.
behaviors as (
    select
        *,
        coalesce(search_query, ingredient) as detail,
        lead(occurred_at, {{ env_var('KURASHIRU_RECENT_BEHAVIORS', '50') }}) over (
            partition by user_id
            order by occurred_at, event_id desc
        ) as forgotten_at
    from {{ ref('int_behaviors_deduplicated') }}
    where event_name in {{ meaningful_event_names() }} and user_id in (select user_id from queries)
)

-- A profile speaks of one moment, so every query's past is moved in time such that the query is asked at `as_of`.
select
    queries.query_id,
    cast(behaviors.event_id as varchar) as event_id,
    behaviors.recipe_id,

    behaviors.event_name,
    behaviors.detail,

    {{ plus_time_between('behaviors.occurred_at', 'queries.asked_at', 'queries.as_of') }} as occurred_at
from queries
inner join behaviors
    on
        queries.user_id = behaviors.user_id
        and queries.asked_at > behaviors.occurred_at
        and (behaviors.forgotten_at is null or queries.asked_at <= behaviors.forgotten_at)
