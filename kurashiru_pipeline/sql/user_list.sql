-- Which micro-batch made a user's list, and by which model.
-- statement: list
select
    batch_id,
    algorithm,
    generated_at
from {{ keyed('recommendation.recommendations', each('(' ~ user_id ~ ')')) }}
where user_id = {{ user_id }};
