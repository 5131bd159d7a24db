-- Users erased in the micro-batch whose list is still delivered: they get a tombstone. Who has come back since, and
-- has a new list in its place, does not.
-- statement: erased
select delivered.user_id
from {{ keyed('serving.delivered_items', query('erased_users')) }} as delivered
inner join ({{ query('erased_users') }}) as erased on delivered.user_id = erased.user_id
left join {{ keyed('recommendation.recommendations', query('erased_users')) }} as lists
    on delivered.user_id = lists.user_id
where
    not delivered.is_tombstone
    and lists.user_id is null
order by delivered.user_id;
