-- One list a user: those of the micro-batch replace what was there; erased users go.
-- A canary marks the lists of both arms, so that each user's first one in it is delivered even if it is as before.
-- statement: remove from recommendation.recommendations
select user_id from incoming_recommendations
union all
select user_id from ops.batch_erasures where batch_id = {{ batch_id }};

-- statement: add to recommendation.recommendations
select
    user_id,
    {{ batch_id }} as batch_id,
    recipe_ids,
    scores,
    reasons,
    algorithm,
    case when {{ canary }} = '' then content_hash else md5(content_hash || {{ canary }}) end as content_hash,
    {{ generated_at }} as generated_at
from incoming_recommendations;
