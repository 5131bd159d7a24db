-- Invariant of the histories the micro-batch has just changed.
-- statement: checks
select coalesce(max(behavior_count), 0) as longest_history
from (
    select count(*) as behavior_count
    from recommendation.recent_behaviors
    where user_id in (select user_id from staging.behavior_events where batch_id = {{ batch_id }})
    group by user_id
) as histories;
