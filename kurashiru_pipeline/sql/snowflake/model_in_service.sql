-- What is in service: the newest promotion, and the newest canary unless it was stopped or a promotion came after it.
-- statement: in_service
with promotion as (
    select
        version,
        promoted_at
    from model.promotions
    order by promoted_at desc
    limit 1
),

canary as (
    select
        version,
        share,
        started_at,
        changed_at
    from model.canaries
    order by changed_at desc
    limit 1
)

select
    promotion.version,
    canary.version as challenger_version,
    canary.share,
    canary.started_at
from promotion
left join canary on promotion.promoted_at < canary.changed_at;
