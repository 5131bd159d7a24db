{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='event_id',
    cluster_by=['occurred_on'],
    pre_hook="{{ delete_backfilled_days() }}"
) }}

with behaviors as (
    select *
    from {{ ref('int_behaviors_deduplicated') }}
    where event_name in ('recommendation_impression', 'recommendation_click')
),

-- A click that comes late changes an impression already stored, so lists with any news are read again whole.
arrived_lists as (
    select distinct
        user_id,
        recipe_id,
        recommendation_id
    from behaviors
    where {{ arrived_since_last_run() }}
),

affected as (
    select behaviors.*
    from behaviors
    inner join arrived_lists
        on
            behaviors.user_id = arrived_lists.user_id
            and behaviors.recipe_id is not distinct from arrived_lists.recipe_id
            and behaviors.recommendation_id is not distinct from arrived_lists.recommendation_id
),

impressions as (
    select
        *,
        lead(occurred_at) over (
            partition by user_id, recipe_id, recommendation_id
            order by occurred_at, event_id
        ) as next_impression_at
    from affected
    where event_name = 'recommendation_impression'
),

clicks as (
    select *
    from affected
    where event_name = 'recommendation_click'
),

attributed as (
    select
        impressions.event_id,
        min(clicks.occurred_at) as clicked_at,
        max(clicks.loaded_at) as loaded_at
    from impressions
    inner join clicks
        on
            impressions.user_id = clicks.user_id
            and impressions.recipe_id is not distinct from clicks.recipe_id
            and impressions.recommendation_id is not distinct from clicks.recommendation_id
            and impressions.occurred_at <= clicks.occurred_at
            and impressions.occurred_at + interval '{{ var("click_attribution_hours") }} hours' > clicks.occurred_at
            and (impressions.next_impression_at is null or impressions.next_impression_at > clicks.occurred_at)
    group by impressions.event_id
)

select
    impressions.event_id,
    impressions.user_id,
    impressions.session_id,
    impressions.recipe_id,
    impressions.recommendation_id,

    impressions.platform,
    impressions.surface,

    impressions.display_position,
    {{ seconds_between('impressions.occurred_at', 'attributed.clicked_at') }} as seconds_to_click,

    attributed.event_id is not null as is_clicked,

    impressions.occurred_on,
    impressions.occurred_at,
    attributed.clicked_at,
    greatest(impressions.loaded_at, coalesce(attributed.loaded_at, impressions.loaded_at)) as loaded_at
from impressions
left join attributed on impressions.event_id = attributed.event_id
