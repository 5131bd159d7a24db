-- Where a delivery stands: candidates without a final answer, and what was answered.
-- statement: outcome
with answers as (
    select
        user_id,
        is_tombstone,
        answer:status::varchar as status,
        coalesce(answer:dropped_recipes::integer, 0) as dropped_recipes
    from serving.delivery_results
    where batch_id = {{ batch_id }} and answer:status::varchar <> 'RETRY'
)

select
    (select count(*) from serving.delivery_candidates where batch_id = {{ batch_id }}) as candidates,
    count(distinct user_id) as answered,
    count(case when status = 'OK' and not is_tombstone then 1 end) as changed,
    count(case when status = 'OK' and is_tombstone then 1 end) as tombstones,
    coalesce(sum(case when status = 'OK' then dropped_recipes end), 0) as dropped_recipes
from answers;
