-- Users who have a list.
-- statement: listed
select user_id
from recommendation.recommendations;
