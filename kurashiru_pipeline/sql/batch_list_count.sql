-- Lists the micro-batch made.
-- statement: lists
select count(*) as list_count
from recommendation.recommendations
where batch_id = {{ batch_id }};
