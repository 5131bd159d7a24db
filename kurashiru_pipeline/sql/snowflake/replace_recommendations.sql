-- As replace_recommendations.sql, from what the kernel in the warehouse answered.
-- statement: remove
delete from recommendation.recommendations
where user_id in (
    select user_id from kernel_results where result:error is null
    union all
    select user_id from ops.batch_erasures where batch_id = {{ batch_id }}
);

-- statement: add
insert into recommendation.recommendations
select
    user_id,
    {{ batch_id }} as batch_id,
    result:recipe_ids::array as recipe_ids,
    result:scores::array as scores,
    result:reasons::array as reasons,
    result:algorithm::varchar as algorithm,
    case
        when {{ canary }} = '' then result:content_hash::varchar
        else md5(result:content_hash::varchar || {{ canary }})
    end as content_hash,
    {{ generated_at }} as generated_at
from kernel_results
where result:error is null;
