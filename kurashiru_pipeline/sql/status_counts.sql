-- Counts over the whole lake.
-- statement: counts
select
    (select count(*) from raw.behavior_events) as raw_count,
    (select count(*) from staging.behavior_events) as staged,
    (select cast(coalesce(sum(duplicate_count), 0) as bigint) from ops.batches) as duplicates,
    (select count(*) from staging.rejected_events) as rejected,
    {{ keyed_counted('recommendation.recommendations') }} as users_with_recommendations,
    {{ keyed_counted('serving.delivered_items') }} as delivered_users,
    (select count(*) from staging.recipes where not is_deleted) as recipes,
    (select count(*) from staging.users where not is_deleted) as users,
    (select count(*) from ops.batches) as batches,
    (select count(*) from raw.loaded_files where status = 'loaded') as loaded_files,
    (select count(*) from raw.loaded_files where status = 'failed') as failed_files,
    (select count(*) from raw.loaded_files where status = 'ignored') as ignored_files;
