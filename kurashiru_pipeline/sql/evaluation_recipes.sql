-- The catalogue with its titles, for `kurashiru evaluate --from-lake`.
-- statement: recipes
select
    recipe_id,
    title,
    author_id,
    value_tags,
    ingredients,
    published_at
from staging.recipes
order by recipe_id;
