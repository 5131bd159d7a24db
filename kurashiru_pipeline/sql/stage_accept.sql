-- Route the parsed micro-batch: rejects to quarantine, events delivered for the first time to staging.
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
select
    lines.event_id,
    lines.event_name,
    lines.user_id,
    lines.session_id,
    lines.recipe_id,
    lines.occurred_at,
    lines.platform,
    lines.app_version,
    lines.properties,
    {{ batch_id }} as batch_id,
    lines.landed_at,
    lines.loaded_at
from parsed_lines as lines
left join repeated_lines as repeated
    on lines.file_name = repeated.file_name and lines.file_row_number = repeated.file_row_number
where lines.reject_reason is null and repeated.file_name is null;

-- statement: files
insert into ops.batch_files
select
    {{ batch_id }} as batch_id,
    file_name,
    min(landed_at) as landed_at,
    count(*) as line_count
from parsed_lines
group by file_name;
