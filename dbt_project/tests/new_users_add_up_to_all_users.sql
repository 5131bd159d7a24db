{{ config(meta={'dagster': {'ref': {'name': 'fct_daily_kpis'}}}) }}

with new_users as (
    select coalesce(sum(new_users), 0) as user_count
    from {{ ref('fct_daily_kpis') }}
),

active_users as (
    select count(distinct user_id) as user_count
    from {{ ref('int_user_days') }}
)

select
    new_users.user_count as new_user_count,
    active_users.user_count as active_user_count
from new_users
cross join active_users
where new_users.user_count != active_users.user_count
