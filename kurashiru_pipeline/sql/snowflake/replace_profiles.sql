-- As replace_profiles.sql, from what the kernel in the warehouse answered.
-- statement: remove
delete from recommendation.user_profiles
where user_id in (
    select user_id from kernel_results where result:error is null
    union all
    select user_id from ops.batch_erasures where batch_id = {{ batch_id }}
);

-- statement: add
insert into recommendation.user_profiles (
    user_id, batch_id, as_of, recipe_ids, recipe_weights, recipe_actions, cooldowns, recipe_ages, recipe_counts,
    recipe_daytimes, ingredients, ingredient_weights, tastes, taste_weights
)
select
    user_id,
    {{ batch_id }} as batch_id,
    {{ watermark_at }} as as_of,
    result:recipe_ids::array as recipe_ids,
    result:recipe_weights::array as recipe_weights,
    result:recipe_actions::array as recipe_actions,
    result:cooldowns::array as cooldowns,
    result:recipe_ages::array as recipe_ages,
    result:recipe_counts::array as recipe_counts,
    result:recipe_daytimes::array as recipe_daytimes,
    result:ingredients::array as ingredients,
    result:ingredient_weights::array as ingredient_weights,
    result:tastes::array as tastes,
    result:taste_weights::array as taste_weights
from kernel_results
where result:error is null;
