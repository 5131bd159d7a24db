-- A part of everything delivered. What was delivered longer ago than an item lives may have expired in DynamoDB.
-- statement: delivered
select
    user_id,
    version,
    is_tombstone,
    delivered_at >= {{ delivered_since }} as is_recent
from {{ keyed_part('serving.delivered_items', part, parts) }};
