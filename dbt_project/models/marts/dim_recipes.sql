with recipes as (
    select * from {{ ref('stg_kurashiru__recipes') }}
),

-- An event may name a recipe before its export arrives, or after it was removed.
seen_recipes as (
    select distinct recipe_id
    from {{ ref('int_behaviors_deduplicated') }}
    where recipe_id is not null
),

all_recipes as (
    select recipe_id from recipes
    union
    select recipe_id from seen_recipes
)

select
    all_recipes.recipe_id,
    recipes.author_id,

    recipes.title,
    recipes.author_type,
    recipes.main_ingredient,
    recipes.ingredients,
    recipes.value_tags,

    recipes.cooking_minutes,
    recipes.cost_yen,
    recipes.calories_kcal,

    coalesce(not recipes.is_deleted, false) as is_in_catalogue,

    recipes.published_at,
    recipes.updated_at
from all_recipes
left join recipes on all_recipes.recipe_id = recipes.recipe_id
