-- Lines on their way: loaded and not staged (embedded loader only), staged and not delivered; and what the last minutes
-- brought and cost. Loads and stages take turns, so what was loaded after the newest staging is not staged.
-- statement: backlog
with delivered as (
    select coalesce(max(batch_id), 0) as batch_id
    from ops.batch_stages
    where stage = {{ last_stage }}
),

waiting as (
    select
        sum(line_count) as line_count,
        min(landed_at) as oldest_landed_at
    from raw.loaded_files
    where
        kind = 'events'
        and status = 'loaded'
        and loaded_at > (select coalesce(max(staged_at), timestamp '1970-01-01 00:00:00') from ops.batches)
),

unfinished as (
    select sum(read_count) as line_count
    from ops.batches
    where batch_id > (select batch_id from delivered)
),

recent as (
    select
        min(batch_id) as from_batch_id,
        sum(read_count) as line_count
    from ops.batches
    where staged_at >= {{ since }}
)

select
    cast(coalesce((select line_count from waiting), 0) as bigint) as loaded_lines,
    cast(coalesce((select line_count from unfinished), 0) as bigint) as staged_lines,
    (select oldest_landed_at from waiting) as oldest_loaded_at,
    (
        select min(landed_at) from ops.batch_files where batch_id > (select batch_id from delivered)
    ) as oldest_staged_at,
    cast(
        coalesce((select sum(line_count) from ops.batch_files where landed_at >= {{ since }}), 0) as bigint
    ) as arrived_lines,
    cast(coalesce((select line_count from recent), 0) as bigint) as processed_lines,
    coalesce(
        (
            select sum(seconds) from ops.batch_stages
            where batch_id >= (select from_batch_id from recent)
        ), 0
    ) as busy_seconds,
    (
        select cast(sum(byte_count) as double) / nullif(sum(line_count), 0)
        from raw.loaded_files
        where kind = 'events' and status = 'loaded' and loaded_at >= {{ since }}
    ) as bytes_a_line;
