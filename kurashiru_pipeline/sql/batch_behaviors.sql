-- Recent behaviours of the users the micro-batch touched.
-- statement: behaviors
select
    behaviors.user_id,
    behaviors.event_id,
    behaviors.event_name,
    behaviors.recipe_id,
    behaviors.detail,
    behaviors.occurred_at
from {{ keyed('recommendation.recent_behaviors', query('touched_users')) }} as behaviors
inner join ({{ query('touched_users') }}) as touched on behaviors.user_id = touched.user_id
order by behaviors.user_id, behaviors.occurred_at desc, behaviors.event_id;
