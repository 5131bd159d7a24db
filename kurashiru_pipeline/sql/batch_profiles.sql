-- Profiles the micro-batch changed: what the kernel ranks for.
-- statement: profiles
select *
from recommendation.user_profiles
where batch_id = {{ batch_id }}
order by user_id;
