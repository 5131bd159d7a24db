with windows as (
    select * from {{ ref('model_windows') }}
),

-- A click after the learning days is not known on them.
shown as (
    select
        impressions.event_id,
        impressions.user_id,
        impressions.recommendation_id,
        impressions.recipe_id,
        impressions.display_position,
        impressions.is_clicked and cast(impressions.clicked_at as date) < windows.cut_on as is_clicked,
        impressions.occurred_at
    from {{ ref('fct_recommendation_impressions') }} as impressions
    inner join windows
        on impressions.occurred_on >= windows.learn_from_on and impressions.occurred_on < windows.cut_on
    where
        impressions.recommendation_id is not null
        and impressions.recipe_id is not null
        and impressions.display_position is not null
),

listed as (
    select
        *,
        first_value(event_id) over (
            partition by user_id, recommendation_id
            order by occurred_at, event_id
        ) as first_event_id,
        min(occurred_at) over (partition by user_id, recommendation_id) as asked_at
    from shown
),

clicked_lists as (
    select
        first_event_id,
        user_id
    from listed
    group by first_event_id, user_id
    having count(case when is_clicked then 1 end) > 0
),

-- Which lists are learned from is drawn by chance, the same in every run.
few_a_user as (
    select first_event_id
    from clicked_lists
    qualify
        row_number() over (
            partition by user_id
            order by md5(cast(first_event_id as varchar)), first_event_id
        ) <= {{ var('queries_per_user') }}
),

drawn as (
    select first_event_id
    from few_a_user
    order by md5(cast(first_event_id as varchar)), first_event_id
    limit {{ var('learning_lists') }}
)

select
    cast(listed.first_event_id as varchar) as query_id,
    listed.user_id,
    listed.recipe_id,

    min(listed.display_position) as display_position,

    count(case when listed.is_clicked then 1 end) > 0 as is_clicked,

    min(listed.asked_at) as asked_at
from listed
inner join drawn on listed.first_event_id = drawn.first_event_id
group by listed.first_event_id, listed.user_id, listed.recipe_id
