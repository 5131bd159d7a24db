-- The catalogue as the kernel needs it.
-- statement: recipes
select
    recipe_id,
    value_tags,
    ingredients,
    author_id,
    published_at,
    is_deleted
from staging.recipes
order by recipe_id;
