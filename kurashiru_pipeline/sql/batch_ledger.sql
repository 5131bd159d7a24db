-- One micro-batch's accounting.
-- statement: ledger
select *
from ops.batches
where batch_id = {{ batch_id }};
