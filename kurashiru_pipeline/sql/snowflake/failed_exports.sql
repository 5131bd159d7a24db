-- Files of the exports just taken that had rows to refuse.
-- statement: failed
select
    file_name,
    error
from refused_exports
order by file_name, error;
