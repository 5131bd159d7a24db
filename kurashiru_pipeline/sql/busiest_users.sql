-- Of the users whom the newest micro-batch touched, those with the most recent behaviours.
-- statement: users
select user_id
from {{ keyed_row_counts('recommendation.recent_behaviors', query('newest_users')) }}
where user_id in ({{ query('newest_users') }})
order by row_count desc, user_id
limit {{ at_most }};
