-- Live popularity as of each recipe's last event.
-- statement: popularity
select
    recipe_id,
    decayed_count,
    decayed_at
from recommendation.live_popularity
order by recipe_id;
