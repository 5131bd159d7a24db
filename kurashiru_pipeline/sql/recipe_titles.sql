-- Titles of a few recipes.
-- statement: titles
select
    recipe_id,
    title
from staging.recipes
where recipe_id in {{ recipe_ids }};
