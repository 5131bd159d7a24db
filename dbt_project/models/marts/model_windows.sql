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

counted as (
    select
        interacted_on,
        interactions,
        sum(interactions) over (order by interacted_on desc) as interactions_from_day_on,
        sum(interactions) over () * {{ var('holdout_share') }} as holdout_size,
        sum(interactions) over () * {{ var('learning_share') }} as learning_size
    from days
),

holdout as (
    select
        greatest(
            max(case when interactions_from_day_on >= holdout_size then interacted_on end),
            max(interacted_on) - {{ var('window_max_days') }} + 1
        ) as cut_on,
        max(interacted_on) as newest_on
    from counted
),

known_days as (
    select
        counted.interacted_on,
        counted.interactions,
        counted.learning_size,
        sum(counted.interactions) over (order by counted.interacted_on desc) as interactions_from_day_on
    from counted
    cross join holdout
    where counted.interacted_on < holdout.cut_on
),

learning as (
    select
        greatest(
            max(case when interactions_from_day_on >= learning_size then interacted_on end),
            max(interacted_on) - {{ var('window_max_days') }} + 1
        ) as learn_from_on
    from known_days
),

-- What is known before the learning days must be enough to learn upon.
past as (
    select sum(known_days.interactions) >= max(known_days.learning_size) as is_enough
    from known_days
    cross join learning
    where known_days.interacted_on < learning.learn_from_on
)

select
    case when past.is_enough then learning.learn_from_on end as learn_from_on,
    holdout.cut_on,
    holdout.newest_on
from holdout
cross join learning
cross join past
