-- Take into the micro-batch the users that an export has queued.
-- statement: erasures
insert into ops.batch_erasures
select distinct
    {{ batch_id }} as batch_id,
    user_id
from ops.pending_erasures;

-- statement: erasures_taken
delete from ops.pending_erasures;

-- statement: preferences
insert into ops.batch_preferences
select
    {{ batch_id }} as batch_id,
    user_id
from ops.pending_preferences
group by user_id
order by min(requested_at), user_id
limit {{ max_users }};

-- statement: preferences_taken
delete from ops.pending_preferences
where user_id in (select user_id from ops.batch_preferences where batch_id = {{ batch_id }});
