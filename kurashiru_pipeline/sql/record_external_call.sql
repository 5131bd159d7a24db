-- Ledger: what an external recommender had to say about a micro-batch.
-- statement: record
insert into ops.external_calls
select
    batch_id,
    source,
    breaker,
    asked_count,
    answered_count,
    failed_count,
    late_count,
    unknown_count,
    seconds,
    error,
    called_at
from incoming_external_calls;
