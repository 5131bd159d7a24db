-- Keep the last meaningful behaviours of every user the micro-batch touched; forget erased users.
-- statement: touch
insert into touched_behaviors
with arrived as (
    select
        events.user_id,
        cast(events.event_id as varchar) as event_id,
        events.event_name,
        events.recipe_id,
        coalesce(
            {{ json_text('events.properties', 'query') }}, {{ json_text('events.properties', 'ingredient') }}
        ) as detail,
        events.occurred_at
    from staging.behavior_events as events
    left join staging.users as deleted on events.user_id = deleted.user_id and deleted.is_deleted
    where
        events.batch_id = {{ batch_id }}
        and events.event_name in {{ meaningful_event_names }}
        and deleted.user_id is null
),

-- A user may be erased and come back between two micro-batches: what was known is gone all the same.
known as (
    select behaviors.*
    from {{ keyed('recommendation.recent_behaviors', query('touched_users')) }} as behaviors
    inner join (select distinct user_id from arrived) as touched on behaviors.user_id = touched.user_id
    left join ops.batch_erasures as erased on behaviors.user_id = erased.user_id and erased.batch_id = {{ batch_id }}
    where erased.user_id is null
),

together as (
    select * from arrived
    union all
    select * from known
),

-- An event delivered again after the window of de-duplication is still one behaviour.
behaviors as (
    select *
    from together
    qualify row_number() over (partition by user_id, event_id order by occurred_at) = 1
)

select *
from behaviors
qualify row_number() over (partition by user_id order by occurred_at desc, event_id) <= {{ keep }};

-- statement: remove from recommendation.recent_behaviors
select user_id from touched_behaviors
union all
select user_id from ops.batch_erasures where batch_id = {{ batch_id }};

-- statement: add to recommendation.recent_behaviors
select *
from touched_behaviors
order by user_id, occurred_at desc, event_id;
