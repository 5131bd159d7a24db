-- Route the parsed micro-batch: rejects to quarantine, new events to staging; an event_id counts once in the window.
-- statement: quarantine
insert into staging.rejected_events
select
    rejected_payload as payload,
    reject_reason as reason,
    file_name,
    file_row_number,
    {{ batch_id }} as batch_id,
    loaded_at
from parsed_lines
where reject_reason is not null;

-- statement: accept
insert into staging.behavior_events
with first_deliveries as (
    select *
    from parsed_lines
    where reject_reason is null
    qualify row_number() over (partition by event_id order by loaded_at, file_name, file_row_number) = 1
),

recently_staged as (
    select event_id
    from staging.behavior_events
    where loaded_at >= {{ duplicates_from }}
)

select
    cast(new.event_id as {{ uuid_type() }}) as event_id,
    new.event_name,
    new.user_id,
    new.session_id,
    new.recipe_id,
    new.occurred_at,
    new.platform,
    new.app_version,
    new.properties,
    {{ batch_id }} as batch_id,
    new.landed_at,
    new.loaded_at
from first_deliveries as new
left join recently_staged as known on cast(new.event_id as {{ uuid_type() }}) = known.event_id
where known.event_id is null;

-- statement: files
insert into ops.batch_files
select
    {{ batch_id }} as batch_id,
    file_name,
    min(landed_at) as landed_at,
    count(*) as line_count
from parsed_lines
group by file_name;

-- statement: erasures
insert into ops.batch_erasures
select distinct
    {{ batch_id }} as batch_id,
    user_id
from ops.pending_erasures;

-- statement: erasures_taken
delete from ops.pending_erasures;

-- statement: preferences
insert into ops.batch_preferences
select
    {{ batch_id }} as batch_id,
    user_id
from ops.pending_preferences
group by user_id
order by min(requested_at), user_id
limit {{ max_users }};

-- statement: preferences_taken
delete from ops.pending_preferences
where user_id in (select user_id from ops.batch_preferences where batch_id = {{ batch_id }});

-- statement: ledger
insert into ops.batches
select
    {{ batch_id }} as batch_id,
    {{ staged_at }} as staged_at,
    {{ watermark_at }} as watermark_at,
    {{ read_count }} as read_count,
    count(*) as staged_count,
    {{ read_count }} - {{ rejected_count }} - count(*) as duplicate_count,
    {{ rejected_count }} as rejected_count,
    count(case when event_name not in {{ event_names }} then 1 end) as unknown_name_count,
    count(distinct user_id) as user_count,
    (select count(*) from ops.batch_erasures where batch_id = {{ batch_id }}) as erased_user_count,
    (select count(*) from ops.batch_preferences where batch_id = {{ batch_id }}) as preference_user_count
from (
    select
        event_name,
        user_id
    from staging.behavior_events
    where batch_id = {{ batch_id }}
) as staged;
