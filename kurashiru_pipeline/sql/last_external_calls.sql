-- How the last calls of an external recommender went, newest first: what its circuit breaker goes by.
-- statement: calls
select
    called_at,
    breaker,
    asked_count,
    answered_count
from ops.external_calls
where source = {{ source }} and asked_count > 0
order by called_at desc, batch_id desc
limit {{ at_most }};
