-- A pair seen in one direction counts for its share in the other, so no transition stands alone.
select there.*
from {{ ref('recipe_transitions') }} as there
left join {{ ref('recipe_transitions') }} as back
    on there.from_recipe_id = back.to_recipe_id and there.to_recipe_id = back.from_recipe_id
where back.weight is null or back.weight > there.weight / {{ var('transition_reverse_share') }} * 1.000001
