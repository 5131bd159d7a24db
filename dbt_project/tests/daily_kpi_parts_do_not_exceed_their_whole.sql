select *
from {{ ref('fct_daily_kpis') }}
where
    clicked_recommendation_impressions > recommendation_impressions
    or new_users > active_users
