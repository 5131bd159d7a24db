-- Users erased in the micro-batch whose list is still delivered: they get a tombstone. Who has come back since, and
-- has a new list in its place, does not.
-- statement: erased
select delivered.user_id
from serving.delivered_items as delivered
inner join ops.batch_erasures as erased on delivered.user_id = erased.user_id
left join recommendation.recommendations as lists on delivered.user_id = lists.user_id
where
    erased.batch_id = {{ batch_id }}
    and not delivered.is_tombstone
    and lists.user_id is null
order by delivered.user_id;
