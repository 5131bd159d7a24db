-- As record_deliveries.sql, from the answers of the external function.
-- statement: remove
delete from serving.delivered_items
where user_id in (
    select user_id
    from serving.delivery_results
    where batch_id = {{ batch_id }} and answer:status::varchar = 'OK'
);

-- statement: add
insert into serving.delivered_items
select
    user_id,
    version,
    content_hash,
    is_tombstone,
    {{ delivered_at }} as delivered_at
from serving.delivery_results
where batch_id = {{ batch_id }} and answer:status::varchar = 'OK';
