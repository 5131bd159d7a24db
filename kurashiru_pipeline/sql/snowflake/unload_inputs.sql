-- What the kernel's functions read, as files of the micro-batch: the catalogue, and popularity as it is now.
-- An empty table makes no file.
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

-- statement: popularity
-- In Parquet, which keeps every digit of a double; JSON would not.
copy into @model.inputs/{{ batch_id }}/popularity.parquet
from (
    select
        recipe_id,
        decayed_count,
        {{ iso_text('decayed_at') }} as decayed_at
    from ({{ query('popularity') }}) as popularity
)
file_format = (type = parquet)
header = true
single = true
overwrite = true
max_file_size = 1000000000;
