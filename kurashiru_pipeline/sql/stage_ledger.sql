-- Ledger: the accounting of the micro-batch. What was repeated is counted apart from what was staged, so the two can be
-- checked against each other.
-- statement: ledger
insert into ops.batches
select
    {{ batch_id }} as batch_id,
    {{ staged_at }} as staged_at,
    {{ watermark_at }} as watermark_at,
    {{ read_count }} as read_count,
    count(*) as staged_count,
    (select count(*) from repeated_lines) as duplicate_count,
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
