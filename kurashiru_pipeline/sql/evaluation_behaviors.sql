-- Behaviours that tell something of users' wishes since a moment, each once, for `kurashiru evaluate --from-lake`.
-- statement: behaviors
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
    events.event_name in {{ meaningful_event_names }}
    and events.occurred_at >= {{ occurred_since }}
    and deleted.user_id is null
qualify row_number() over (partition by events.event_id order by events.batch_id, events.loaded_at) = 1
order by events.occurred_at, events.event_id;
