-- Work tables of the stage transaction. DDL ends a transaction on Snowflake, so it runs before the transaction begins.
-- statement: parsed_lines
create or replace temporary table parsed_lines (
    event_id {{ uuid_type() }},
    event_name varchar,
    user_id varchar,
    session_id varchar,
    recipe_id varchar,
    occurred_at timestamp,
    platform varchar,
    app_version varchar,
    properties {{ json_type() }},
    reject_reason varchar,
    rejected_payload varchar,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp,
    loaded_at timestamp
);
-- statement: repeated_lines
create or replace temporary table repeated_lines (
    file_name varchar,
    file_row_number bigint
);
