-- Upsert of a recipe export: the newest row of a recipe wins, an older or equal one changes nothing.
-- statement: remove_outdated
delete from staging.recipes
where recipe_id in (
    select incoming.recipe_id
    from incoming_recipes as incoming
    inner join staging.recipes as known on incoming.recipe_id = known.recipe_id
    where incoming.updated_at > known.updated_at
);

-- statement: add
insert into staging.recipes
select
    incoming.recipe_id,
    incoming.title,
    incoming.author_id,
    incoming.author_type,
    incoming.ingredients,
    incoming.value_tags,
    incoming.cooking_minutes,
    incoming.cost_yen,
    incoming.calories_kcal,
    incoming.published_at,
    incoming.updated_at,
    incoming.is_deleted
from incoming_recipes as incoming
left join staging.recipes as known on incoming.recipe_id = known.recipe_id
where known.recipe_id is null
qualify row_number() over (partition by incoming.recipe_id order by incoming.updated_at desc, incoming.export_row) = 1;
