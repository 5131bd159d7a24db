-- Consume the stream of recipe exports: sound rows to load_recipes.sql, the others to quarantine. A read may hold a
-- part of a file, so rows are refused and not files; a refused row stays in raw.recipe_exports.
-- statement: take
insert into taken_recipes
select
    recipe_id,
    title,
    author_id,
    author_type,
    ingredients,
    value_tags,
    cooking_minutes,
    cost_yen,
    calories_kcal,
    published_at,
    updated_at,
    coalesce(is_deleted, false) as is_deleted,
    file_name,
    file_row_number,
    landed_at,
    case
        when recipe_id is null or not {{ matches('recipe_id', id_pattern) }} then 'no valid recipe_id'
        when updated_at is null then 'no updated_at'
    end as refusal
from {{ stream('raw_recipe_exports') }};

-- statement: incoming
insert into incoming_recipes
select
    recipe_id,
    title,
    author_id,
    author_type,
    ingredients,
    value_tags,
    cooking_minutes,
    cost_yen,
    calories_kcal,
    published_at,
    updated_at,
    is_deleted,
    row_number() over (order by file_name, file_row_number) as export_row
from taken_recipes
where refusal is null;

-- statement: refuse
insert into refused_exports
select
    file_name,
    'recipes' as kind,
    cast(count(*) as varchar) || ' rows have ' || refusal || ', the first is row '
    || cast(min(file_row_number) as varchar) as error,
    count(*) as line_count,
    min(landed_at) as landed_at
from taken_recipes
where refusal is not null
group by file_name, refusal;

-- statement: quarantine
insert into raw.loaded_files (file_name, kind, status, error, line_count, landed_at, loaded_at)
select
    file_name,
    kind,
    'failed' as status,
    error,
    line_count,
    landed_at,
    {{ loaded_at }} as loaded_at
from refused_exports
where kind = 'recipes';
