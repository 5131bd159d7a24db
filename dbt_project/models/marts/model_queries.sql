with windows as (
    select * from {{ ref('model_windows') }}
),

interactions as (
    select
        behaviors.event_id,
        behaviors.user_id,
        behaviors.recipe_id,
        behaviors.occurred_at,
        case when behaviors.occurred_on < windows.cut_on then 'learning' else 'holdout' end as query_role
    from {{ ref('int_behaviors_deduplicated') }} as behaviors
    inner join windows on behaviors.occurred_on >= coalesce(windows.learn_from_on, windows.cut_on)
    where behaviors.event_name in {{ interaction_event_names() }} and behaviors.recipe_id is not null
),

steps as (
    select
        *,
        lag(recipe_id) over (partition by query_role, user_id order by occurred_at, event_id) as previous_recipe_id
    from interactions
),

-- Foretold are changes from one recipe to another, also back to an earlier one; which ones is drawn by chance, the same
-- in every run.
few_a_user as (
    select *
    from steps
    where recipe_id != previous_recipe_id
    qualify
        row_number() over (
            partition by query_role, user_id
            order by md5(cast(event_id as varchar)), event_id
        ) <= {{ var('queries_per_user') }}
),

targets as (
    select *
    from few_a_user
    qualify
        row_number() over (partition by query_role order by md5(cast(event_id as varchar)), event_id)
        <= case query_role when 'learning' then {{ var('learning_queries') }} else {{ var('holdout_queries') }} end
),

queries as (
    select
        cast(event_id as varchar) as query_id,
        query_role,
        user_id,
        recipe_id as target_recipe_id,
        occurred_at as asked_at
    from targets
    union all
    select distinct
        query_id,
        'impressions' as query_role,
        user_id,
        cast(null as varchar) as target_recipe_id,
        asked_at
    from {{ ref('model_impressions') }}
)

select
    queries.query_id,
    queries.user_id,
    queries.target_recipe_id,

    queries.query_role,
    users.preferred_tags,

    queries.asked_at,
    max(queries.asked_at) over (partition by queries.query_role = 'holdout') as as_of
from queries
left join {{ ref('stg_kurashiru__users') }} as users on queries.user_id = users.user_id
