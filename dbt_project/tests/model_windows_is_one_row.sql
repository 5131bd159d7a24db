-- The marts that read it join it to every row of theirs.
select count(*) as row_count
from {{ ref('model_windows') }}
having count(*) != 1
