-- What should be readable in DynamoDB of the deliveries of one micro-batch: a sample.
-- statement: delivered
select
    user_id,
    version,
    is_tombstone
from {{ keyed('serving.delivered_items', query('batch_users')) }}
where version = {{ batch_id }}
order by user_id
limit {{ at_most }};
