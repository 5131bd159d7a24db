-- Profiles the micro-batch changed: what the kernel ranks for. One from before recipe_ages, which only a micro-batch
-- can have that an update of this program interrupted, is rebuilt when its user is next touched.
-- statement: profiles
select
    user_id,
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
from {{ keyed('recommendation.user_profiles', query('touched_users')) }}
where batch_id = {{ batch_id }} and recipe_ages is not null
order by user_id;
