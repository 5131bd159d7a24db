-- Whether anything is recorded as delivered.
-- statement: delivered
select {{ keyed_has_rows('serving.delivered_items') }} as has_delivered;
