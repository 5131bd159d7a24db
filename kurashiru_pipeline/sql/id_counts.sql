-- Rows and distinct ids of the upserted tables.
-- statement: ids
select
    (select count(*) from staging.recipes) as recipe_rows,
    (select count(distinct recipe_id) from staging.recipes) as recipe_ids,
    (select count(*) from staging.users) as user_rows,
    (select count(distinct user_id) from staging.users) as user_ids;
