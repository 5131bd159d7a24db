-- Users erased in the micro-batch.
-- statement: erased
select user_id
from ops.batch_erasures
where batch_id = {{ batch_id }};
