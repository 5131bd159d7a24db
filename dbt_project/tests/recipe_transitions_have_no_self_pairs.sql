select *
from {{ ref('recipe_transitions') }}
where from_recipe_id = to_recipe_id
