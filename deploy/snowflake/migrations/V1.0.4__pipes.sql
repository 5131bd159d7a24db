-- Pipes. Names are qualified in full: a pipe runs in no session. Times are naive UTC, whatever the account's time zone.
-- A file that fails is skipped whole and shown by `kurashiru doctor`; it is loaded again only under a new name.
{%- macro file_name() -%}
{% if landing_prefix %}substr(metadata$filename, {{ landing_prefix | length + 1 }}){% else %}metadata$filename{% endif %}
{%- endmacro %}
{%- macro loaded_at() %}convert_timezone('UTC', metadata$start_scan_time)::timestamp_ntz{% endmacro %}
{#- A time without zone is UTC; a number is no time. #}
{%- macro utc(field) -%}
case
            when is_timestamp_ntz($1:{{ field }}) then $1:{{ field }}::timestamp_ntz
            when is_timestamp_ltz($1:{{ field }})
                then convert_timezone('UTC', $1:{{ field }}::timestamp_ltz)::timestamp_ntz
        end
{%- endmacro %}
create pipe if not exists {{ database }}.raw.pipe_behavior_events
    auto_ingest = true
    aws_sns_topic = '{{ topic_arn }}'
    comment = 'events/: every line'
as
copy into {{ database }}.raw.behavior_events (payload, file_name, file_row_number, landed_at, loaded_at)
from (
    select
        $1,
        {{ file_name() }},
        metadata$file_row_number,
        metadata$file_last_modified,
        {{ loaded_at() }}
    from @{{ database }}.raw.landing/events/
)
file_format = (format_name = '{{ database }}.raw.ff_lines')
on_error = skip_file;

create pipe if not exists {{ database }}.raw.pipe_recipe_exports
    auto_ingest = true
    aws_sns_topic = '{{ topic_arn }}'
    comment = 'recipes/: full or incremental exports'
as
copy into {{ database }}.raw.recipe_exports (
    recipe_id, title, author_id, author_type, ingredients, value_tags, cooking_minutes, cost_yen, calories_kcal,
    published_at, updated_at, is_deleted, file_name, file_row_number, landed_at, loaded_at
)
from (
    select
        $1:recipe_id::varchar,
        $1:title::varchar,
        $1:author_id::varchar,
        $1:author_type::varchar,
        $1:ingredients::array,
        $1:value_tags::array,
        $1:cooking_minutes::integer,
        $1:cost_yen::integer,
        $1:calories_kcal::integer,
        {{ utc('published_at') }},
        {{ utc('updated_at') }},
        $1:is_deleted::boolean,
        {{ file_name() }},
        metadata$file_row_number,
        metadata$file_last_modified,
        {{ loaded_at() }}
    from @{{ database }}.raw.landing/recipes/
)
file_format = (format_name = '{{ database }}.raw.ff_parquet')
on_error = skip_file;

create pipe if not exists {{ database }}.raw.pipe_user_exports
    auto_ingest = true
    aws_sns_topic = '{{ topic_arn }}'
    comment = 'users/: full or incremental exports'
as
copy into {{ database }}.raw.user_exports (
    user_id, registered_at, preferred_tags, updated_at, is_deleted, file_name, file_row_number, landed_at, loaded_at
)
from (
    select
        $1:user_id::varchar,
        {{ utc('registered_at') }},
        $1:preferred_tags::array,
        {{ utc('updated_at') }},
        $1:is_deleted::boolean,
        {{ file_name() }},
        metadata$file_row_number,
        metadata$file_last_modified,
        {{ loaded_at() }}
    from @{{ database }}.raw.landing/users/
)
file_format = (format_name = '{{ database }}.raw.ff_parquet')
on_error = skip_file;
