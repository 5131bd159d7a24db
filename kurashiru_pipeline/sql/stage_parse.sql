-- Consume the stream: parse, type and judge every line once. The one read of the stream in its transaction.
-- statement: parse
insert into parsed_lines
with lines as (
    select
        payload,
        file_name,
        file_row_number,
        landed_at,
        loaded_at,
        {{ byte_length('payload') }} > {{ max_line_bytes }} as is_too_long,
        {{ json_or_null('payload') }} as json_value
    from {{ stream('raw_behavior_events') }}
),

documents as (
    select
        *,
        case
            when not is_too_long and {{ is_json_object('json_value') }} then {{ document('json_value') }}
        end as document
    from lines
),

fields as (
    select
        *,
        {{ document_text('document', 'event_id') }} as event_id,
        {{ document_text('document', 'event_name') }} as event_name,
        {{ document_text('document', 'user_id') }} as user_id,
        {{ document_text('document', 'session_id') }} as session_id,
        {{ document_text('document', 'recipe_id') }} as recipe_id,
        {{ document_value('document', 'recipe_id') }} is not null as has_recipe_id,
        {{ document_text('document', 'occurred_at') }} as occurred_text,
        {{ document_text('document', 'platform') }} as platform,
        {{ document_text('document', 'app_version') }} as app_version,
        {{ document_object('document', 'properties') }} as properties
    from documents
),

timed as (
    select
        *,
        case
            when {{ matches('occurred_text', time_pattern) }} then {{ to_moment('occurred_text') }}
        end as occurred_at
    from fields
),

judged as (
    select
        *,
        case
            when is_too_long then 'line_too_long'
            when json_value is null then 'not_json'
            when document is null then 'not_an_object'
            when event_id is null or not {{ matches('event_id', uuid_pattern) }} then 'bad_event_id'
            when event_name is null or not {{ matches('event_name', event_name_pattern) }} then 'bad_event_name'
            when user_id is null or not {{ matches('user_id', id_pattern) }} then 'bad_user_id'
            when
                has_recipe_id and (recipe_id is null or not {{ matches('recipe_id', id_pattern) }})
                then 'bad_recipe_id'
            when occurred_at is null then 'bad_occurred_at'
            when occurred_at > {{ plus_hours('loaded_at', max_hours_ahead) }} then 'occurred_in_future'
            when occurred_at < {{ minus_days('loaded_at', retention_days) }} then 'occurred_before_retention'
        end as reject_reason
    from timed
)

select
    case when reject_reason is null then {{ to_uuid('event_id') }} end as event_id,
    event_name,
    user_id,
    session_id,
    recipe_id,
    occurred_at,
    platform,
    app_version,
    properties,
    reject_reason,
    case when reject_reason is not null then payload end as rejected_payload,
    file_name,
    file_row_number,
    landed_at,
    loaded_at
from judged;
