-- Quarantine by reason.
-- statement: reasons
select
    reason,
    count(*) as line_count
from staging.rejected_events
group by reason
order by line_count desc, reason;
