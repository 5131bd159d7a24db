-- Users whom the newest micro-batch touched.
-- statement: users
select distinct user_id
from staging.behavior_events
where batch_id = (select max(batch_id) from ops.batches);
