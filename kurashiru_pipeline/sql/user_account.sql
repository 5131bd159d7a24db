-- What a user said of their taste, and whether they asked to be forgotten.
-- statement: account
select
    user_id,
    preferred_tags,
    is_deleted
from staging.users
where user_id = {{ user_id }};
