-- Whom the kernel in the warehouse ranks for: the micro-batch's users, and users without a list of their own.
-- The files have one URL a statement, not one a row: a function reads what it has not met before.
-- statement: inputs
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
            'recipe_ages', recipe_ages,
            'recipe_counts', recipe_counts,
            'recipe_daytimes', recipe_daytimes,
            'ingredients', ingredients,
            'ingredient_weights', ingredient_weights,
            'tastes', tastes,
            'taste_weights', taste_weights
        ) as profile
    from ({{ query('batch_profiles') }}) as profiles
    union all
    select
        impersonal.value:user_id::varchar as user_id,
        impersonal.value::object as profile
    from table(flatten(input => parse_json({{ impersonal_profiles }}))) as impersonal
)

select
    profiles.user_id,
    profiles.profile,
    files.recipes_url,
    files.popularity_url,
    profiles.user_id not like '#%'
    and substr(md5({{ challenger_version }} || ':' || profiles.user_id), 1, 8) < {{ challenger_threshold }}
        as is_challenger
from profiles
cross join files;
