-- Whose lists a micro-batch may have made or taken away: its users, users it erased, and those without a list.
-- statement: users
select touched.user_id
from ({{ query('touched_users') }}) as touched
union
select user_id
from ops.batch_erasures
where batch_id = {{ batch_id }}
union
select impersonal.user_id
from ({{ each(lists_of_nobody) }}) as impersonal;
