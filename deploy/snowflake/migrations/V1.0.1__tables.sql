-- Tables: those of kurashiru_pipeline/sql/schema.sql, column for column, and Snowflake's own.
-- No clustering keys. Events arrive in the order of time, so load time and batch_id prune as they are; COPY into a
-- clustered table does not keep its ON_ERROR promise; the tables by user are small and rewritten at random.

create table if not exists raw.behavior_events (
    payload varchar,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp_ntz,
    loaded_at timestamp_ntz
);
-- Only exports with rows to refuse: Snowflake keeps the load history itself.
create table if not exists raw.loaded_files (
    file_name varchar,
    directory varchar,
    kind varchar,
    status varchar,
    error varchar,
    byte_count bigint,
    line_count bigint,
    landed_at timestamp_ntz,
    loaded_at timestamp_ntz,
    scanned_at timestamp_ntz
);
-- Rows as exported; the load step refuses those without a valid id or time of update.
create table if not exists raw.recipe_exports (
    recipe_id varchar,
    title varchar,
    author_id varchar,
    author_type varchar,
    ingredients array,
    value_tags array,
    cooking_minutes integer,
    cost_yen integer,
    calories_kcal integer,
    published_at timestamp_ntz,
    updated_at timestamp_ntz,
    is_deleted boolean,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp_ntz,
    loaded_at timestamp_ntz
);
create table if not exists raw.user_exports (
    user_id varchar,
    registered_at timestamp_ntz,
    preferred_tags array,
    updated_at timestamp_ntz,
    is_deleted boolean,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp_ntz,
    loaded_at timestamp_ntz
);

create table if not exists staging.behavior_events (
    event_id varchar,
    event_name varchar,
    user_id varchar,
    session_id varchar,
    recipe_id varchar,
    occurred_at timestamp_ntz,
    platform varchar,
    app_version varchar,
    properties variant,
    batch_id bigint,
    landed_at timestamp_ntz,
    loaded_at timestamp_ntz
);
create table if not exists staging.rejected_events (
    payload varchar,
    reason varchar,
    file_name varchar,
    file_row_number bigint,
    batch_id bigint,
    loaded_at timestamp_ntz
);
create table if not exists staging.recipes (
    recipe_id varchar,
    title varchar,
    author_id varchar,
    author_type varchar,
    ingredients array,
    value_tags array,
    cooking_minutes integer,
    cost_yen integer,
    calories_kcal integer,
    published_at timestamp_ntz,
    updated_at timestamp_ntz,
    is_deleted boolean
);
create table if not exists staging.users (
    user_id varchar,
    registered_at timestamp_ntz,
    preferred_tags array,
    updated_at timestamp_ntz,
    is_deleted boolean
);

create table if not exists recommendation.recent_behaviors (
    user_id varchar,
    event_id varchar,
    event_name varchar,
    recipe_id varchar,
    detail varchar,
    occurred_at timestamp_ntz
);
create table if not exists recommendation.user_profiles (
    user_id varchar,
    batch_id bigint,
    as_of timestamp_ntz,
    recipe_ids array,
    recipe_weights array,
    recipe_actions array,
    cooldowns array,
    ingredients array,
    ingredient_weights array,
    tastes array,
    taste_weights array
);
create table if not exists recommendation.live_popularity (
    recipe_id varchar,
    decayed_count double,
    decayed_at timestamp_ntz
);
create table if not exists recommendation.recommendations (
    user_id varchar,
    batch_id bigint,
    recipe_ids array,
    scores array,
    reasons array,
    algorithm varchar,
    content_hash varchar,
    generated_at timestamp_ntz
);

-- One row a promotion; the newest is the model in service.
create table if not exists model.promotions (
    version varchar,
    promoted_at timestamp_ntz
);

create table if not exists serving.delivered_items (
    user_id varchar,
    version bigint,
    content_hash varchar,
    is_tombstone boolean,
    delivered_at timestamp_ntz
);
create table if not exists serving.delivery_candidates (
    batch_id bigint,
    user_id varchar,
    version bigint,
    recommendation object,
    content_hash varchar,
    is_tombstone boolean
);
create table if not exists serving.delivery_results (
    batch_id bigint,
    user_id varchar,
    version bigint,
    content_hash varchar,
    is_tombstone boolean,
    answer variant,
    answered_at timestamp_ntz
);

create table if not exists ops.batches (
    batch_id bigint,
    staged_at timestamp_ntz,
    watermark_at timestamp_ntz,
    read_count bigint,
    staged_count bigint,
    duplicate_count bigint,
    rejected_count bigint,
    unknown_name_count bigint,
    user_count bigint,
    erased_user_count bigint
);
create table if not exists ops.batch_stages (
    batch_id bigint,
    stage varchar,
    finished_at timestamp_ntz,
    seconds double,
    row_count bigint
);
create table if not exists ops.batch_files (
    batch_id bigint,
    file_name varchar,
    landed_at timestamp_ntz,
    line_count bigint
);
create table if not exists ops.pending_erasures (
    user_id varchar,
    requested_at timestamp_ntz
);
create table if not exists ops.batch_erasures (
    batch_id bigint,
    user_id varchar
);
create table if not exists ops.delivery_targets (
    table_name varchar,
    delivery_id varchar,
    is_resend_pending boolean
);
-- One writer at a time: the holder renews it in every transaction, and a higher fence shuts out the one before.
create table if not exists ops.writer_lease (
    name varchar,
    holder varchar,
    session_id varchar,
    fence number(38, 0),
    renewed_at timestamp_ntz
);
insert into ops.writer_lease (name, fence)
select
    'realtime',
    0
where not exists (select 1 from ops.writer_lease where name = 'realtime');
