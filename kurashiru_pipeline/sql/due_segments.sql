-- Segments whose list is to be made anew: it never was, or enough of the popularity behind it is new, or it is old.
-- The lists by value tag go by everybody's popularity, as '#default' does, and are due together with that.
-- statement: due
with weighed as (
    select
        segment,
        sum(
            cast(
                decayed_count * power(
                    0.5e0, {{ seconds_between('decayed_at', watermark_at) }} / {{ segment_half_life_seconds }}
                ) as decimal(18, 6)
            )
        ) as weight,
        {{ segment_half_life_seconds }} as half_life_seconds
    from recommendation.segment_popularity
    group by segment
    union all
    select
        {{ default_user }} as segment,
        sum(
            cast(
                decayed_count * power(
                    0.5e0, {{ seconds_between('decayed_at', watermark_at) }} / {{ half_life_seconds }}
                ) as decimal(18, 6)
            )
        ) as weight,
        {{ half_life_seconds }} as half_life_seconds
    from recommendation.live_popularity
)

select
    weighed.segment,
    cast(weighed.weight as double) as weight
from weighed
left join recommendation.segment_lists as made on weighed.segment = made.segment
where
    weighed.weight > 0
    and (
        made.segment is null
        or {{ seconds_between('made.made_at', watermark_at) }} >= {{ renew_seconds }}
        or weighed.weight - made.weight * power(
            0.5e0, {{ seconds_between('made.made_at', watermark_at) }} / weighed.half_life_seconds
        ) >= {{ renew_share }} * weighed.weight
    )
order by weighed.segment;
