with source as (
    select * from {{ source('kurashiru', 'recipes') }}
),

renamed as (
    select
        recipe_id,
        author_id,

        title,
        author_type,
        {{ first_element('ingredients') }} as main_ingredient,
        ingredients,
        value_tags,

        cooking_minutes,
        cost_yen,
        calories_kcal,

        is_deleted,

        published_at,
        updated_at
    from source
)

select * from renamed
