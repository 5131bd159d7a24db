-- Invariant of the histories the micro-batch has just changed.
-- statement: checks
select coalesce(max(row_count), 0) as longest_history
from {{ keyed_row_counts('recommendation.recent_behaviors', query('touched_users')) }}
where user_id in ({{ query('touched_users') }});
