-- Which table the delivered items were written to.
-- statement: target
select
    delivery_id,
    is_resend_pending
from ops.delivery_targets
where table_name = {{ table_name }};
