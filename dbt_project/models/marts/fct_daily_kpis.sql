with user_days as (
    select * from {{ ref('int_user_days') }}
),

popularity as (
    select
        *,
        cast(popularity_hour_at as date) as kpi_on
    from {{ ref('fct_hourly_recipe_popularity') }}
),

catalogue as (
    select *
    from {{ ref('dim_recipes') }}
    where is_in_catalogue
),

first_days as (
    select
        user_id,
        min(active_on) as first_active_on
    from user_days
    group by user_id
),

-- A day is over, and retention on it known, once data of a later day has been loaded.
last_loads as (
    select cast(max(loaded_at) as date) as loaded_on
    from user_days
),

active_users as (
    select
        active_on as kpi_on,
        count(*) as active_users
    from user_days
    group by active_on
),

cohorts as (
    select
        first_days.first_active_on as kpi_on,
        count(distinct first_days.user_id) as new_users,
        count(case when user_days.active_on = first_days.first_active_on + 1 then 1 end) as day_1_users,
        count(case when user_days.active_on = first_days.first_active_on + 7 then 1 end) as day_7_users
    from first_days
    inner join user_days on first_days.user_id = user_days.user_id
    group by first_days.first_active_on
),

recommendations as (
    select
        occurred_on as kpi_on,
        count(*) as recommendation_impressions,
        count(case when is_clicked then 1 end) as clicked_recommendation_impressions
    from {{ ref('fct_recommendation_impressions') }}
    group by occurred_on
),

behaviors as (
    select
        occurred_on as kpi_on,
        count(case when event_name = 'recipe_view' then 1 end) as views,
        count(case when event_name = 'search' then 1 end) as searches,
        count(case when event_name = 'recipe_favorite' then 1 end) as favorites,
        count(case when event_name = 'recipe_cooked' then 1 end) as cookings
    from {{ ref('int_behaviors_deduplicated') }}
    group by occurred_on
),

-- Coverage is of the recipes that had been published by that day and still are in the catalogue.
catalogue_sizes as (
    select
        active_users.kpi_on,
        count(*) as catalogue_recipes
    from active_users
    inner join catalogue on active_users.kpi_on >= cast(catalogue.published_at as date)
    group by active_users.kpi_on
),

covered as (
    select
        popularity.kpi_on,
        count(distinct case when popularity.recommendation_impressions > 0 then popularity.recipe_id end)
            as recommended_recipes,
        count(distinct case when popularity.views > 0 then popularity.recipe_id end) as viewed_recipes
    from popularity
    inner join catalogue
        on
            popularity.recipe_id = catalogue.recipe_id
            and popularity.kpi_on >= cast(catalogue.published_at as date)
    group by popularity.kpi_on
)

select
    active_users.kpi_on,

    active_users.active_users,
    coalesce(cohorts.new_users, 0) as new_users,
    case
        when active_users.kpi_on + 1 < last_loads.loaded_on then cast(cohorts.day_1_users as double) / cohorts.new_users
    end as day_1_retention,
    case
        when active_users.kpi_on + 7 < last_loads.loaded_on then cast(cohorts.day_7_users as double) / cohorts.new_users
    end as day_7_retention,

    coalesce(behaviors.views, 0) as views,
    coalesce(behaviors.searches, 0) as searches,
    coalesce(behaviors.favorites, 0) as favorites,
    coalesce(behaviors.cookings, 0) as cookings,

    coalesce(recommendations.recommendation_impressions, 0) as recommendation_impressions,
    coalesce(recommendations.clicked_recommendation_impressions, 0) as clicked_recommendation_impressions,
    cast(recommendations.clicked_recommendation_impressions as double)
    / recommendations.recommendation_impressions as recommendation_ctr,

    coalesce(catalogue_sizes.catalogue_recipes, 0) as catalogue_recipes,
    cast(coalesce(covered.recommended_recipes, 0) as double)
    / catalogue_sizes.catalogue_recipes as recommendation_coverage,
    cast(coalesce(covered.viewed_recipes, 0) as double) / catalogue_sizes.catalogue_recipes as view_coverage
from active_users
cross join last_loads
left join cohorts on active_users.kpi_on = cohorts.kpi_on
left join recommendations on active_users.kpi_on = recommendations.kpi_on
left join behaviors on active_users.kpi_on = behaviors.kpi_on
left join catalogue_sizes on active_users.kpi_on = catalogue_sizes.kpi_on
left join covered on active_users.kpi_on = covered.kpi_on
