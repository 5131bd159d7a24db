-- Which of some users have a list.
-- statement: listed
select user_id
from {{ keyed_row_counts('recommendation.recommendations', each(user_ids)) }}
where user_id in {{ user_ids }};
