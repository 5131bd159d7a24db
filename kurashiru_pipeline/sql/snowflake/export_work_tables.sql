-- Work tables of loading exports: what was taken, the sound rows as load_recipes.sql and load_users.sql read them, and
-- what was refused; see stage_work_tables.sql.
-- statement: taken_recipes
create or replace temporary table taken_recipes (
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
    is_deleted boolean,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp,
    refusal varchar
);
-- statement: incoming_recipes
create or replace temporary table incoming_recipes (
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
    is_deleted boolean,
    export_row bigint
);
-- statement: taken_users
create or replace temporary table taken_users (
    user_id varchar,
    registered_at timestamp,
    preferred_tags {{ array_type('varchar') }},
    updated_at timestamp,
    is_deleted boolean,
    file_name varchar,
    file_row_number bigint,
    landed_at timestamp,
    refusal varchar
);
-- statement: incoming_users
create or replace temporary table incoming_users (
    user_id varchar,
    registered_at timestamp,
    preferred_tags {{ array_type('varchar') }},
    updated_at timestamp,
    is_deleted boolean,
    export_row bigint
);
-- statement: refused_exports
create or replace temporary table refused_exports (
    file_name varchar,
    kind varchar,
    error varchar,
    line_count bigint,
    landed_at timestamp
);
