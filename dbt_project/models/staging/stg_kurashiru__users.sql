with source as (
    select * from {{ source('kurashiru', 'users') }}
),

renamed as (
    select
        user_id,

        preferred_tags,

        is_deleted,

        registered_at,
        updated_at
    from source
)

select * from renamed
