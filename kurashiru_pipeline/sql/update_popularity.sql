-- Decayed counts of the recipes the micro-batch touched, of everybody and by platform and part of the day in Japan, carried
-- forward to its watermark. Only those rows change.
-- Sums are exact decimals, so that the order of the rows cannot change a result.
-- statement: count
insert into popularity_changes
with weighted as (
    select
        recipe_id,
        platform,
        greatest({{ seconds_between('occurred_at', watermark_at) }}, 0) as age_seconds,
        extract(hour from {{ plus_hours('occurred_at', hours_ahead_of_utc) }}) as hour_of_day,
        case event_name
            {%- for name, weight in action_weights.items() %}
            when {{ name }} then {{ weight }}
            {%- endfor %}
            else 0
        end as weight
    from staging.behavior_events
    where batch_id = {{ batch_id }} and recipe_id is not null
),

counted as (
    select
        '' as segment,
        recipe_id,
        weight * power(0.5e0, age_seconds / {{ half_life_seconds }}) as gain
    from weighted
    where weight > 0
    union all
    select
        {{ segment_prefix }} || platform || ':' || case
            {%- for part, first_hour in latest_parts_first.items() %}
            when hour_of_day >= {{ first_hour }} then {{ part }}
            {%- endfor %}
            else {{ part_over_midnight }}
        end as segment,
        recipe_id,
        weight * power(0.5e0, age_seconds / {{ segment_half_life_seconds }}) as gain
    from weighted
    where weight > 0 and platform in {{ platforms }}
),

gained as (
    select
        segment,
        recipe_id,
        sum(cast(gain as decimal(18, 6))) as gain
    from counted
    group by segment, recipe_id
),

known as (
    select
        '' as segment,
        recipe_id,
        decayed_count,
        decayed_at
    from recommendation.live_popularity
    union all
    select *
    from recommendation.segment_popularity
)

select
    gained.segment,
    gained.recipe_id,
    cast(gained.gain as double) + coalesce(
        known.decayed_count * power(
            0.5e0,
            {{ seconds_between('known.decayed_at', watermark_at) }}
            / cast(
                case when gained.segment = '' then {{ half_life_seconds }} else {{ segment_half_life_seconds }} end
                as double
            )
        ),
        0
    ) as decayed_count,
    {{ watermark_at }} as decayed_at
from gained
left join known on gained.segment = known.segment and gained.recipe_id = known.recipe_id;

-- statement: remove
delete from recommendation.live_popularity
where recipe_id in (select recipe_id from popularity_changes where segment = '');

-- statement: add
insert into recommendation.live_popularity
select
    recipe_id,
    decayed_count,
    decayed_at
from popularity_changes
where segment = ''
order by recipe_id;

-- statement: remove_of_segments
delete from recommendation.segment_popularity
where (segment, recipe_id) in (
    select
        segment,
        recipe_id
    from popularity_changes
);

-- statement: add_of_segments
insert into recommendation.segment_popularity
select *
from popularity_changes
where segment <> ''
order by segment, recipe_id;
