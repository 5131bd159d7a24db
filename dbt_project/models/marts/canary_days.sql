with user_days as (
    select * from {{ ref('canary_user_days') }}
),

so_far as (
    select
        *,
        sum(impressions) over (
            partition by challenger_version, canary_started_at, user_id
            order by shown_on
            rows between unbounded preceding and current row
        ) as user_impressions,
        sum(clicks) over (
            partition by challenger_version, canary_started_at, user_id
            order by shown_on
            rows between unbounded preceding and current row
        ) as user_clicks
    from user_days
),

-- What a day adds to sums over users of squares and products of their totals.
added as (
    select
        challenger_version,
        champion_version,
        arm,
        challenger_share,
        shown_on,
        canary_started_at,
        count(case when user_impressions = impressions then 1 end) as users,
        sum(impressions) as impressions,
        sum(clicks) as clicks,
        sum(user_impressions * user_impressions - (user_impressions - impressions) * (user_impressions - impressions))
            as squared_impressions,
        sum(user_impressions * user_clicks - (user_impressions - impressions) * (user_clicks - clicks))
            as impressions_by_clicks,
        sum(user_clicks * user_clicks - (user_clicks - clicks) * (user_clicks - clicks)) as squared_clicks
    from so_far
    group by challenger_version, champion_version, arm, challenger_share, shown_on, canary_started_at
)

select
    challenger_version,
    champion_version,

    arm,

    challenger_share,
    {% for count in ('users', 'impressions', 'clicks') -%}
    cast(
        sum({{ count }}) over (
            partition by challenger_version, canary_started_at, arm
            order by shown_on
            rows between unbounded preceding and current row
        ) as bigint
    ) as {{ count }},
    {% endfor -%}
    {% for total in ('squared_impressions', 'impressions_by_clicks', 'squared_clicks') -%}
    cast(
        sum({{ total }}) over (
            partition by challenger_version, canary_started_at, arm
            order by shown_on
            rows between unbounded preceding and current row
        ) as double
    ) as {{ total }},
    {% endfor -%}

    shown_on,
    canary_started_at
from added
