-- Users the kernel could not answer for; what they had stays.
-- statement: failed
select
    user_id,
    result:error::varchar as error
from kernel_results
where result:error is not null
order by user_id;
