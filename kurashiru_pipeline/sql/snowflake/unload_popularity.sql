-- Popularity as it is now, of everybody and of the segments whose lists are due, as a file that the kernel's functions
-- read: in Parquet, which keeps every digit of a double; JSON would not. An empty table makes no file.
-- statement: popularity
copy into @model.inputs/{{ batch_id }}/popularity.parquet
from (
    select
        segment,
        recipe_id,
        decayed_count,
        {{ iso_text('decayed_at') }} as decayed_at
    from (
        select
            '' as segment,
            recipe_id,
            decayed_count,
            decayed_at
        from ({{ query('popularity') }}) as everybody
        union all
        select *
        from ({{ query('segment_popularity') }}) as of_segments
    ) as popularity
)
file_format = (type = parquet)
header = true
single = true
overwrite = true
max_file_size = 1000000000;
