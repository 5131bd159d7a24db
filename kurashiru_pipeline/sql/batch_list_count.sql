-- Lists the micro-batch made.
-- statement: lists
select coalesce(max(row_count), 0) as list_count
from ops.batch_stages
where batch_id = {{ batch_id }} and stage = {{ stage }};
