-- Profiles know of each recipe when it was last met, how often, and at what time of day. A row from before has none of
-- the three: it is rebuilt when its user is next touched (kurashiru_pipeline/sql/batch_profiles.sql).
alter table recommendation.user_profiles add column if not exists recipe_ages array;
alter table recommendation.user_profiles add column if not exists recipe_counts array;
alter table recommendation.user_profiles add column if not exists recipe_daytimes array;

-- What is popular by platform and part of the day, and by how much of it the list of each was last made.
create table if not exists recommendation.segment_popularity (
    segment varchar,
    recipe_id varchar,
    decayed_count double,
    decayed_at timestamp_ntz
);
create table if not exists recommendation.segment_lists (
    segment varchar,
    weight double,
    made_at timestamp_ntz
);

-- Users whose stated preferences an export brought or changed: those that wait, and those of each micro-batch.
create table if not exists ops.pending_preferences (
    user_id varchar,
    requested_at timestamp_ntz
);
create table if not exists ops.batch_preferences (
    batch_id bigint,
    user_id varchar
);
alter table ops.batches add column if not exists preference_user_count bigint;
