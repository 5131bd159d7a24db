-- Users waiting to be erased.
-- statement: pending
select count(*) as user_count
from ops.pending_erasures;
