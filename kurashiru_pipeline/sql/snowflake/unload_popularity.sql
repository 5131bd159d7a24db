-- Popularity as it is now, as a file that the kernel's functions read: in Parquet, which keeps every digit of a double;
-- JSON would not. An empty table makes no file.
-- statement: popularity
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
