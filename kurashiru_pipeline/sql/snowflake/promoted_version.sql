-- The model version in service: that of the newest promotion.
-- statement: promoted
select version
from model.promotions
order by promoted_at desc
limit 1;
