-- One profile a user: those of the micro-batch replace what was there; erased users go.
-- statement: remove
delete from recommendation.user_profiles
where user_id in (
    select user_id from incoming_profiles
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
    as_of,
    recipe_ids,
    recipe_weights,
    recipe_actions,
    cooldowns,
    recipe_ages,
    recipe_counts,
    recipe_daytimes,
    ingredients,
    ingredient_weights,
    tastes,
    taste_weights
from incoming_profiles;
