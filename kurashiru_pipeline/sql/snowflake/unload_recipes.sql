-- The catalogue as the micro-batch sees it, as a file that the kernel's functions read. An empty table makes no file.
-- statement: recipes
copy into @model.inputs/{{ batch_id }}/recipes.ndjson.gz
from (
    select
        object_construct(
            'recipe_id', recipe_id,
            'value_tags', value_tags,
            'ingredients', ingredients,
            'author_id', author_id,
            'published_at', {{ iso_text('published_at') }},
            'is_deleted', is_deleted
        ) as recipe
    from ({{ query('recipes') }}) as recipes
)
file_format = (type = json compression = gzip)
single = true
overwrite = true
max_file_size = 1000000000;
