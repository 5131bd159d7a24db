-- Put lines that no micro-batch has read back in front of the stream, which begins after them.
-- A micro-batch may have read a part of a file, and which part is not known: of a file with fewer lines read than there
-- are, every line is put back that is not in quarantine. Those staged before are found again as duplicates.
-- Lines that came after the stream began are in it anyway; CHANGES looks at them without moving it.
-- statement: find
insert into unread_lines
with arrived as (
    select
        file_name,
        file_row_number
    from raw.behavior_events
    changes (information => append_only) at (stream => '{{ stream('raw_behavior_events') }}')
),

lost as (
    select
        lines.payload,
        lines.file_name,
        lines.file_row_number,
        lines.landed_at,
        lines.loaded_at
    from raw.behavior_events as lines
    left join arrived
        on lines.file_name = arrived.file_name and lines.file_row_number = arrived.file_row_number
    where arrived.file_name is null
),

files as (
    select
        file_name,
        count(*) as line_count
    from lost
    group by file_name
),

read_files as (
    select
        file_name,
        sum(line_count) as line_count
    from ops.batch_files
    group by file_name
)

select lost.*
from lost
inner join files on lost.file_name = files.file_name
left join read_files on lost.file_name = read_files.file_name
left join staging.rejected_events as rejected
    on lost.file_name = rejected.file_name and lost.file_row_number = rejected.file_row_number
where
    files.line_count > coalesce(read_files.line_count, 0)
    and rejected.file_name is null;

-- statement: remove
delete from raw.behavior_events
where (file_name, file_row_number) in (
    select
        file_name,
        file_row_number
    from unread_lines
);

-- statement: put_back
insert into raw.behavior_events
select *
from unread_lines;
