-- Send the candidates that have no final answer yet, through API Gateway and Lambda. The answers are kept as they came;
-- the one call in the statement stands where no rewriting can repeat it.
-- statement: call
insert into serving.delivery_results
select
    waiting.batch_id,
    waiting.user_id,
    waiting.version,
    waiting.content_hash,
    waiting.is_tombstone,
    serving.put_items(waiting.user_id, waiting.version, waiting.recommendation) as answer,
    {{ answered_at }} as answered_at
from (
    select candidates.*
    from serving.delivery_candidates as candidates
    left join serving.delivery_results as results
        on
            candidates.batch_id = results.batch_id
            and candidates.user_id = results.user_id
            and results.answer:status::varchar <> 'RETRY'
    where candidates.batch_id = {{ batch_id }} and results.user_id is null
) as waiting;
