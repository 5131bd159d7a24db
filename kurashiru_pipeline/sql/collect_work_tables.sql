-- Work table of the collect transaction; see stage_work_tables.sql.
-- statement: touched_behaviors
create or replace temporary table touched_behaviors (
    user_id varchar,
    event_id varchar,
    event_name varchar,
    recipe_id varchar,
    detail varchar,
    occurred_at timestamp
);
