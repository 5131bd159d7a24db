-- Popularity in some segments as of each recipe's last event there.
-- statement: popularity
select
    segment,
    recipe_id,
    decayed_count,
    decayed_at
from recommendation.segment_popularity
where segment in {{ segments }}
order by segment, recipe_id;
