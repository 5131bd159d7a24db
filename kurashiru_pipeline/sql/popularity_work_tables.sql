-- Work table of the popularity update; see stage_work_tables.sql. Everybody's popularity has the segment ''.
-- statement: popularity_changes
create or replace temporary table popularity_changes (
    segment varchar,
    recipe_id varchar,
    decayed_count double,
    decayed_at timestamp
);
