-- Candidates of a delivery: every item DynamoDB should get, with its version, fixed before anything is sent.
-- What a delivery that died left behind is made anew: the same candidates with the same versions.
-- statement: forget_results
delete from serving.delivery_results
where batch_id = {{ batch_id }};

-- statement: forget
delete from serving.delivery_candidates
where batch_id = {{ batch_id }};

-- statement: lists
insert into serving.delivery_candidates
select
    {{ batch_id }} as batch_id,
    changed.user_id,
    case when array_size(changed.recipe_ids) > 0 then changed.version else {{ batch_id }} end as version,
    case
        when array_size(changed.recipe_ids) > 0
            then object_construct(
                'recipe_ids', changed.recipe_ids,
                'reasons', changed.reasons,
                'scores', changed.scores,
                'algorithm', changed.algorithm,
                'generated_at', date_part(epoch_second, changed.generated_at),
                'expires_at', {{ expires_at }}
            )
        else
            object_construct(
                'deleted', true, 'algorithm', 'none', 'generated_at', {{ generated_at }}, 'expires_at', {{ expires_at }}
            )
    end as recommendation,
    changed.content_hash,
    array_size(changed.recipe_ids) = 0 as is_tombstone
from ({{ query('changed_items') }}) as changed
where array_size(changed.recipe_ids) > 0 or changed.is_delivered;

-- statement: erased
insert into serving.delivery_candidates
select
    {{ batch_id }} as batch_id,
    gone.user_id,
    {{ batch_id }} as version,
    object_construct(
        'deleted', true, 'algorithm', 'none', 'generated_at', {{ generated_at }}, 'expires_at', {{ expires_at }}
    ) as recommendation,
    '' as content_hash,
    true as is_tombstone
from (
    select user_id from ({{ query('erased_items') }}) as erased
    union
    select user_id from incoming_strangers
) as gone;
