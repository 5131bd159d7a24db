-- Lists that DynamoDB does not hold yet: new, different, about to expire. Of the micro-batch, or after a change of
-- table a part of all. A user left without recipes is sent only if something was delivered before (as a tombstone).
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
from {{
    keyed_part('recommendation.recommendations', part, parts) if is_resend == 'true'
    else keyed('recommendation.recommendations', query('batch_users'))
}} as lists
left join {{
    keyed_part('serving.delivered_items', part, parts) if is_resend == 'true'
    else keyed('serving.delivered_items', query('batch_users'))
}} as delivered on lists.user_id = delivered.user_id
where
    (lists.batch_id = {{ batch_id }} or {{ is_resend }})
    and (
        delivered.user_id is null
        or delivered.content_hash <> lists.content_hash
        or delivered.delivered_at < {{ refresh_before }}
    )
order by lists.user_id;
