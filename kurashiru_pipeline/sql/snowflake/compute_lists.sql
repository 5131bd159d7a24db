-- Lists of the micro-batch's users, and of users without a list of their own, by the kernel in the warehouse.
-- The files have one URL a statement, not one a row: a function reads what it has not met before.
-- statement: compute
insert into kernel_results
with files as (
    select
        case
            when (select count(*) from staging.recipes) > 0
                then build_scoped_file_url(@model.inputs, '{{ batch_id }}/recipes.ndjson.gz')
        end as recipes_url,
        case
            when (select count(*) from recommendation.live_popularity) > 0
                then build_scoped_file_url(@model.inputs, '{{ batch_id }}/popularity.parquet')
        end as popularity_url
),

profiles as (
    select
        user_id,
        object_construct(
            'user_id', user_id,
            'as_of', {{ iso_text('as_of') }},
            'recipe_ids', recipe_ids,
            'recipe_weights', recipe_weights,
            'recipe_actions', recipe_actions,
            'cooldowns', cooldowns,
            'ingredients', ingredients,
            'ingredient_weights', ingredient_weights,
            'tastes', tastes,
            'taste_weights', taste_weights
        ) as profile
    from ({{ query('batch_profiles') }}) as profiles
    union all
    select
        {{ default_user }} as user_id,
        object_construct('user_id', {{ default_user }}, 'as_of', {{ as_of }}) as profile
)

select
    profiles.user_id,
    recommendation.rank_recipes(
        profiles.profile,
        files.recipes_url,
        files.popularity_url,
        {{ as_of }},
        {{ list_length }}
    ) as result
from profiles
cross join files;
