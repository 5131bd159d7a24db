-- Upsert of a user export: the newest row of a user wins; a user newly deleted is queued for erasure, one who says
-- something else of their taste for a new list.
-- statement: queue_erasures
insert into ops.pending_erasures
select distinct
    incoming.user_id,
    {{ loaded_at }} as requested_at
from incoming_users as incoming
left join staging.users as known on incoming.user_id = known.user_id
where
    incoming.is_deleted
    and (
        known.user_id is null
        or (not known.is_deleted and incoming.updated_at > known.updated_at)
    );

-- statement: queue_preferences
insert into ops.pending_preferences
select distinct
    incoming.user_id,
    {{ loaded_at }} as requested_at
from incoming_users as incoming
left join staging.users as known on incoming.user_id = known.user_id
where
    not incoming.is_deleted
    and (known.user_id is null or incoming.updated_at > known.updated_at)
    and coalesce(array_to_string(incoming.preferred_tags, ','), '')
    <> coalesce(case when not known.is_deleted then array_to_string(known.preferred_tags, ',') end, '');

-- statement: remove_outdated
delete from staging.users
where user_id in (
    select incoming.user_id
    from incoming_users as incoming
    inner join staging.users as known on incoming.user_id = known.user_id
    where incoming.updated_at > known.updated_at
);

-- statement: add
insert into staging.users
select
    incoming.user_id,
    incoming.registered_at,
    incoming.preferred_tags,
    incoming.updated_at,
    incoming.is_deleted
from incoming_users as incoming
left join staging.users as known on incoming.user_id = known.user_id
where known.user_id is null
qualify row_number() over (partition by incoming.user_id order by incoming.updated_at desc, incoming.export_row) = 1;
