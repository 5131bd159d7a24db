-- Event files that Snowpipe has met since a moment, with what became of them.
-- statement: files
select
    file_name,
    status,
    row_count,
    first_error_message,
    {{ seconds_between('pipe_received_time', 'last_load_time') }} as delay_seconds
from
    table(
        information_schema.copy_history(
            table_name => 'raw.behavior_events', start_time => {{ since }}::timestamp_ltz
        )
    )
order by last_load_time, file_name;
