-- What should be readable in DynamoDB: the deliveries of one micro-batch (a sample), or all of them. What was
-- delivered longer ago than an item lives may have expired there.
-- statement: delivered
select
    user_id,
    version,
    is_tombstone
from serving.delivered_items
where
    (version = {{ batch_id }} or {{ is_everything }})
    and delivered_at >= {{ delivered_since }}
order by user_id
limit {{ at_most }};
