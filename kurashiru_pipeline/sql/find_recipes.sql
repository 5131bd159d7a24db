-- Recipes with a word in their title or id.
-- statement: found
select
    recipe_id,
    title
from staging.recipes
where
    not is_deleted
    and (contains(lower(title), lower({{ word }})) or contains(lower(recipe_id), lower({{ word }})))
order by recipe_id
limit {{ at_most }};
