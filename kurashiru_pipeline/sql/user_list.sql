-- Which micro-batch made a user's list, and by which model.
-- statement: list
select
    batch_id,
    algorithm,
    generated_at
from recommendation.recommendations
where user_id = {{ user_id }};
