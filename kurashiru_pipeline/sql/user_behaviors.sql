-- Recent behaviours of one user, as the kernel takes them.
-- statement: behaviors
select
    user_id,
    event_id,
    event_name,
    recipe_id,
    detail,
    occurred_at
from {{ keyed('recommendation.recent_behaviors', each('(' ~ user_id ~ ')')) }}
where user_id = {{ user_id }}
order by occurred_at desc, event_id;
