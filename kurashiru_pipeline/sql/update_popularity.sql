-- Decayed counts of the recipes the micro-batch touched, carried forward to its watermark. Only those rows change.
-- Sums are exact decimals, so that the order of the rows cannot change a result.
-- statement: count
insert into popularity_changes
with weighted as (
    select
        recipe_id,
        occurred_at,
        case event_name
            {%- for name, weight in action_weights.items() %}
            when {{ name }} then {{ weight }}
            {%- endfor %}
            else 0
        end as weight
    from staging.behavior_events
    where batch_id = {{ batch_id }} and recipe_id is not null
),

gained as (
    select
        recipe_id,
        sum(
            cast(
                weight * power(
                    0.5e0,
                    greatest({{ seconds_between('occurred_at', watermark_at) }}, 0) / {{ half_life_seconds }}
                ) as decimal(18, 6)
            )
        ) as decayed_count
    from weighted
    where weight > 0
    group by recipe_id
)

select
    gained.recipe_id,
    cast(gained.decayed_count as double) + coalesce(
        known.decayed_count * power(
            0.5e0, {{ seconds_between('known.decayed_at', watermark_at) }} / {{ half_life_seconds }}
        ),
        0
    ) as decayed_count,
    {{ watermark_at }} as decayed_at
from gained
left join recommendation.live_popularity as known on gained.recipe_id = known.recipe_id;

-- statement: remove
delete from recommendation.live_popularity
where recipe_id in (select recipe_id from popularity_changes);

-- statement: add
insert into recommendation.live_popularity
select *
from popularity_changes
order by recipe_id;
