-- What the users that the micro-batch touched said of their taste, perhaps nothing.
-- statement: preferences
select
    users.user_id,
    users.preferred_tags
from staging.users as users
inner join ({{ query('touched_users') }}) as touched on users.user_id = touched.user_id
where not users.is_deleted
order by users.user_id;
