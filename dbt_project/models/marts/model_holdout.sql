with popularity as (
    select * from {{ ref('fct_hourly_recipe_popularity') }}
),

days as (
    select
        cast(popularity_hour_at as date) as interacted_on,
        sum(interactions) as interactions
    from popularity
    where interactions > 0
    group by cast(popularity_hour_at as date)
),

from_day_on as (
    select
        interacted_on,
        sum(interactions) over (order by interacted_on desc) as interactions,
        sum(interactions) over () as all_interactions
    from days
)

select max(interacted_on) as cut_on
from from_day_on
where interactions >= {{ var('holdout_share') }} * all_interactions
