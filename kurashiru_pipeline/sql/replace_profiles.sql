-- One profile a user: those of the micro-batch replace what was there; erased users go.
-- statement: remove from recommendation.user_profiles
select user_id from incoming_profiles
union all
select user_id from ops.batch_erasures where batch_id = {{ batch_id }};

-- statement: add to recommendation.user_profiles
select
    user_id,
    {{ batch_id }} as batch_id,
    as_of,
    recipe_ids,
    recipe_weights,
    recipe_actions,
    cooldowns,
    ingredients,
    ingredient_weights,
    tastes,
    taste_weights,
    recipe_ages,
    recipe_counts,
    recipe_daytimes
from incoming_profiles;
