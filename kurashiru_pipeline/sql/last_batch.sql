-- The newest micro-batch: the next one counts on from it, and the watermark never goes back.
-- statement: last
select
    max(batch_id) as batch_id,
    max(watermark_at) as watermark_at
from ops.batches;
