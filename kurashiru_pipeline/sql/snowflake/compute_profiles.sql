-- Profiles of the users the micro-batch touched, by the kernel in the warehouse: a row a user in, a row a user out.
-- The files have one URL a statement, not one a row: a function reads what it has not met before.
-- statement: compute
insert into kernel_results
with files as (
    select
        case
            when (select count(*) from staging.recipes) > 0
                then build_scoped_file_url(@model.inputs, '{{ batch_id }}/recipes.ndjson.gz')
        end as recipes_url
),

histories as (
    select
        behaviors.user_id,
        array_agg(
            object_construct(
                'event_id', behaviors.event_id,
                'event_name', behaviors.event_name,
                'recipe_id', behaviors.recipe_id,
                'detail', behaviors.detail,
                'occurred_at', {{ iso_text('behaviors.occurred_at') }}
            )
        ) within group (order by behaviors.occurred_at desc, behaviors.event_id) as history
    from ({{ query('batch_behaviors') }}) as behaviors
    group by behaviors.user_id
),

users as (
    select
        coalesce(histories.user_id, preferences.user_id) as user_id,
        histories.history,
        preferences.preferred_tags
    from histories
    full outer join ({{ query('batch_preferences') }}) as preferences on histories.user_id = preferences.user_id
)

select
    users.user_id,
    recommendation.build_profile(
        users.user_id,
        users.history,
        users.preferred_tags,
        files.recipes_url,
        {{ as_of }}
    ) as result
from users
cross join files;
