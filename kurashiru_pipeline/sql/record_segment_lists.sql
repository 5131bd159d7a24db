-- The lists of the segments that were due are made: by how much popularity, and when.
-- statement: remove
delete from recommendation.segment_lists
where segment in (select due.segment from ({{ query('due_segments') }}) as due);

-- statement: add
insert into recommendation.segment_lists
select
    due.segment,
    due.weight,
    {{ watermark_at }} as made_at
from ({{ query('due_segments') }}) as due;
