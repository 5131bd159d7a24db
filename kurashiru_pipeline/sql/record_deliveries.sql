-- What DynamoDB now holds, written only after it said so.
-- statement: remove from serving.delivered_items
select user_id from incoming_deliveries;

-- statement: add to serving.delivered_items
select
    user_id,
    version,
    content_hash,
    is_tombstone,
    {{ delivered_at }} as delivered_at
from incoming_deliveries;
