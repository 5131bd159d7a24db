-- Micro-batches that have not reached DynamoDB, oldest first, each with the stages it has behind it.
-- Batches finish in order, so everything after the last finished one is unfinished.
-- statement: unfinished
select
    batches.batch_id,
    batches.staged_at,
    batches.watermark_at,
    count(stages.stage) as finished_stages
from ops.batches as batches
left join ops.batch_stages as stages on batches.batch_id = stages.batch_id and stages.stage <> 'load'
where
    batches.batch_id > (
        select coalesce(max(batch_id), 0)
        from ops.batch_stages
        where stage = {{ last_stage }}
    )
group by batches.batch_id, batches.staged_at, batches.watermark_at
order by batches.batch_id;
