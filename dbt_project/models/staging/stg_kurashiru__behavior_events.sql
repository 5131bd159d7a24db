with source as (
    select * from {{ source('kurashiru', 'behavior_events') }}
),

renamed as (
    select
        event_id,
        user_id,
        session_id,
        recipe_id,
        batch_id,

        event_name,
        platform,
        app_version,
        {{ json_text('properties', 'query') }} as search_query,
        {{ json_text('properties', 'ingredient') }} as ingredient,
        {{ json_text('properties', 'surface') }} as surface,
        {{ json_text('properties', 'recommendation_id') }} as recommendation_id,

        try_cast({{ json_text('properties', 'position') }} as integer) as display_position,

        cast(occurred_at as date) as occurred_on,
        occurred_at,
        landed_at,
        loaded_at
    from source
)

select * from renamed
