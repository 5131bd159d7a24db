-- Users with the most recent behaviours.
-- statement: users
select user_id
from recommendation.recent_behaviors
group by user_id
order by count(*) desc, user_id
limit {{ at_most }};
