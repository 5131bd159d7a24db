-- Work table of the popularity update; see stage_work_tables.sql.
-- statement: popularity_changes
create or replace temporary table popularity_changes (
    recipe_id varchar,
    decayed_count double,
    decayed_at timestamp
);
