-- Items that DynamoDB will not take, or holds in a newer version: left out, and shown.
-- statement: refusals
select
    user_id,
    coalesce(answer:error::varchar, answer:status::varchar) as error
from serving.delivery_results
where batch_id = {{ batch_id }} and answer:status::varchar in ('STALE', 'REFUSED')
order by user_id;
