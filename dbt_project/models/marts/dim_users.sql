with users as (
    select * from {{ ref('stg_kurashiru__users') }}
),

activity as (
    select
        user_id,
        min(active_on) as first_active_on,
        max(active_on) as last_active_on,
        count(*) as active_days
    from {{ ref('int_user_days') }}
    group by user_id
),

all_users as (
    select user_id from users
    union
    select user_id from activity
)

select
    all_users.user_id,

    users.preferred_tags,

    coalesce(activity.active_days, 0) as active_days,

    users.user_id is not null as is_registered,
    coalesce(users.is_deleted, false) as is_deleted,

    activity.first_active_on,
    activity.last_active_on,
    users.registered_at,
    users.updated_at
from all_users
left join users on all_users.user_id = users.user_id
left join activity on all_users.user_id = activity.user_id
