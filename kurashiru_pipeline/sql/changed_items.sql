-- Lists that DynamoDB does not hold yet: new, different, about to expire; or all of them after a change of table.
-- A user left without recipes is sent only if something was delivered before (as a tombstone).
-- statement: changed
select
    lists.user_id,
    lists.batch_id as version,
    lists.recipe_ids,
    lists.scores,
    lists.reasons,
    lists.algorithm,
    lists.content_hash,
    lists.generated_at,
    delivered.user_id is not null and not delivered.is_tombstone as is_delivered
from recommendation.recommendations as lists
left join serving.delivered_items as delivered on lists.user_id = delivered.user_id
where
    (lists.batch_id = {{ batch_id }} or {{ is_resend }})
    and (
        delivered.user_id is null
        or delivered.content_hash <> lists.content_hash
        or delivered.delivered_at < {{ refresh_before }}
    )
order by lists.user_id;
