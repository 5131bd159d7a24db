-- Objects of the near-real-time lake. Every statement may be run again; nothing here drops or replaces state.
-- A column that came later stands last in its table, and once more as an alteration, for lakes that are older.
-- statement: raw
create schema if not exists raw;
-- statement: staging
create schema if not exists staging;
-- statement: recommendation
create schema if not exists recommendation;
-- statement: serving
create schema if not exists serving;
-- statement: ops
create schema if not exists ops;

-- statement: raw.behavior_events
create table if not exists raw.behavior_events (
    payload varchar,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp,
    loaded_at timestamp
);
-- statement: raw.loaded_files
create table if not exists raw.loaded_files (
    file_name varchar,
    directory varchar,
    kind varchar,
    status varchar,
    error varchar,
    byte_count bigint,
    line_count bigint,
    landed_at timestamp,
    loaded_at timestamp,
    scanned_at timestamp
);

-- statement: staging.behavior_events
create table if not exists staging.behavior_events (
    event_id {{ uuid_type() }},
    event_name varchar,
    user_id varchar,
    session_id varchar,
    recipe_id varchar,
    occurred_at timestamp,
    platform varchar,
    app_version varchar,
    properties {{ json_type() }},
    batch_id bigint,
    landed_at timestamp,
    loaded_at timestamp
);
-- statement: staging.rejected_events
create table if not exists staging.rejected_events (
    payload varchar,
    reason varchar,
    file_name varchar,
    file_row_number bigint,
    batch_id bigint,
    loaded_at timestamp
);
-- statement: staging.recipes
create table if not exists staging.recipes (
    recipe_id varchar,
    title varchar,
    author_id varchar,
    author_type varchar,
    ingredients {{ array_type('varchar') }},
    value_tags {{ array_type('varchar') }},
    cooking_minutes integer,
    cost_yen integer,
    calories_kcal integer,
    published_at timestamp,
    updated_at timestamp,
    is_deleted boolean
);
-- statement: staging.users
create table if not exists staging.users (
    user_id varchar,
    registered_at timestamp,
    preferred_tags {{ array_type('varchar') }},
    updated_at timestamp,
    is_deleted boolean
);

-- statement: recommendation.recent_behaviors
create table if not exists recommendation.recent_behaviors (
    user_id varchar,
    event_id varchar,
    event_name varchar,
    recipe_id varchar,
    detail varchar,
    occurred_at timestamp
);
-- statement: recommendation.user_profiles
create table if not exists recommendation.user_profiles (
    user_id varchar,
    batch_id bigint,
    as_of timestamp,
    recipe_ids {{ array_type('varchar') }},
    recipe_weights {{ array_type('double') }},
    recipe_actions {{ array_type('varchar') }},
    cooldowns {{ array_type('double') }},
    ingredients {{ array_type('varchar') }},
    ingredient_weights {{ array_type('double') }},
    tastes {{ array_type('varchar') }},
    taste_weights {{ array_type('double') }},
    recipe_ages {{ array_type('double') }},
    recipe_counts {{ array_type('double') }},
    recipe_daytimes {{ array_type('double') }}
);
-- statement: recommendation.user_profiles.recipe_ages
alter table recommendation.user_profiles add column if not exists recipe_ages {{ array_type('double') }};
-- statement: recommendation.user_profiles.recipe_counts
alter table recommendation.user_profiles add column if not exists recipe_counts {{ array_type('double') }};
-- statement: recommendation.user_profiles.recipe_daytimes
alter table recommendation.user_profiles add column if not exists recipe_daytimes {{ array_type('double') }};
-- statement: recommendation.live_popularity
create table if not exists recommendation.live_popularity (
    recipe_id varchar,
    decayed_count double,
    decayed_at timestamp
);
-- statement: recommendation.segment_popularity
create table if not exists recommendation.segment_popularity (
    segment varchar,
    recipe_id varchar,
    decayed_count double,
    decayed_at timestamp
);
-- statement: recommendation.segment_lists
create table if not exists recommendation.segment_lists (
    segment varchar,
    weight double,
    made_at timestamp
);
-- statement: recommendation.recommendations
create table if not exists recommendation.recommendations (
    user_id varchar,
    batch_id bigint,
    recipe_ids {{ array_type('varchar') }},
    scores {{ array_type('double') }},
    reasons {{ array_type('varchar') }},
    algorithm varchar,
    content_hash varchar,
    generated_at timestamp
);

-- statement: serving.delivered_items
create table if not exists serving.delivered_items (
    user_id varchar,
    version bigint,
    content_hash varchar,
    is_tombstone boolean,
    delivered_at timestamp
);

-- statement: ops.batches
create table if not exists ops.batches (
    batch_id bigint,
    staged_at timestamp,
    watermark_at timestamp,
    read_count bigint,
    staged_count bigint,
    duplicate_count bigint,
    rejected_count bigint,
    unknown_name_count bigint,
    user_count bigint,
    erased_user_count bigint,
    preference_user_count bigint
);
-- statement: ops.batches.preference_user_count
alter table ops.batches add column if not exists preference_user_count bigint;
-- statement: ops.batch_stages
create table if not exists ops.batch_stages (
    batch_id bigint,
    stage varchar,
    finished_at timestamp,
    seconds double,
    row_count bigint
);
-- statement: ops.batch_files
create table if not exists ops.batch_files (
    batch_id bigint,
    file_name varchar,
    landed_at timestamp,
    line_count bigint
);
-- statement: ops.pending_erasures
create table if not exists ops.pending_erasures (
    user_id varchar,
    requested_at timestamp
);
-- statement: ops.batch_erasures
create table if not exists ops.batch_erasures (
    batch_id bigint,
    user_id varchar
);
-- statement: ops.pending_preferences
create table if not exists ops.pending_preferences (
    user_id varchar,
    requested_at timestamp
);
-- statement: ops.batch_preferences
create table if not exists ops.batch_preferences (
    batch_id bigint,
    user_id varchar
);
-- statement: ops.external_calls
create table if not exists ops.external_calls (
    batch_id bigint,
    source varchar,
    breaker varchar,
    asked_count bigint,
    answered_count bigint,
    failed_count bigint,
    late_count bigint,
    unknown_count bigint,
    seconds double,
    error varchar,
    called_at timestamp
);
-- statement: ops.batch_models
create table if not exists ops.batch_models (
    batch_id bigint,
    model_version varchar,
    challenger_version varchar,
    challenger_share double,
    challenger_threshold varchar,
    canary_started_at timestamp
);
-- statement: ops.delivery_targets
create table if not exists ops.delivery_targets (
    table_name varchar,
    delivery_id varchar,
    is_resend_pending boolean
);
