{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key='paired_on',
    cluster_by=['paired_on'],
    pre_hook="{{ delete_backfilled_days('paired_on') }}"
) }}

with interactions as (
    select
        event_id,
        user_id,
        recipe_id,
        occurred_on,
        occurred_at,
        loaded_at
    from {{ ref('int_behaviors_deduplicated') }}
    where event_name in {{ interaction_event_names() }} and recipe_id is not null
),

arrived_days as (
    select distinct occurred_on
    from interactions
    where {{ arrived_since_last_run() }}
),

-- An event that comes late moves the steps of later events too, as far as pairs reach.
affected_days as (
    select distinct interactions.occurred_on
    from interactions
    inner join arrived_days
        on
            interactions.occurred_on >= arrived_days.occurred_on
            and interactions.occurred_on <= arrived_days.occurred_on + {{ var('transition_max_days') }}
),

steps as (
    select
        user_id,
        recipe_id,
        occurred_on,
        occurred_at,
        loaded_at,
        row_number() over (partition by user_id order by occurred_at, event_id) as step_number
    from interactions
    where occurred_on >= (select min(occurred_on) - {{ var('transition_max_days') }} from affected_days)
),

-- Joining on each gap makes the work linear in events, also for a user with very many.
gaps as (
    {% for step_gap in range(1, var('transition_max_steps') + 1) -%}
    select {{ step_gap }} as step_gap
    {{- ' union all' if not loop.last }}
    {% endfor %}
),

expected as (
    select
        earlier.user_id,
        earlier.recipe_id,
        earlier.occurred_at,
        earlier.step_number + gaps.step_gap as later_step_number,
        gaps.step_gap
    from steps as earlier
    cross join gaps
),

pairs as (
    select
        later.occurred_on as paired_on,
        expected.recipe_id as from_recipe_id,
        later.recipe_id as to_recipe_id,
        sum(cast(1 as double) / expected.step_gap) as forward_weight,
        count(*) as pair_count,
        max(later.loaded_at) as loaded_at
    from expected
    inner join steps as later
        on expected.user_id = later.user_id and expected.later_step_number = later.step_number
    where
        expected.recipe_id != later.recipe_id
        and later.occurred_at <= expected.occurred_at + interval '{{ var("transition_max_days") }} days'
        and later.occurred_on in (select occurred_on from affected_days)
    group by later.occurred_on, expected.recipe_id, later.recipe_id
)

select * from pairs
