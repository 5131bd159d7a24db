-- Work table of mending a stale stream; see stage_work_tables.sql.
-- statement: unread_lines
create or replace temporary table unread_lines (
    payload varchar,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp,
    loaded_at timestamp
);
