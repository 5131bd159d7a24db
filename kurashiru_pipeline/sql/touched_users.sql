-- Users that the micro-batch makes a profile and a list for: they did something, or said something of their taste.
-- statement: touched
select user_id
from staging.behavior_events
where batch_id = {{ batch_id }} and event_name in {{ meaningful_event_names }}
union
select user_id
from ops.batch_preferences
where batch_id = {{ batch_id }};
