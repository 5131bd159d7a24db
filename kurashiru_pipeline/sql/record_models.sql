-- Ledger: which models made a micro-batch's lists. The challenger's part is null without a canary.
-- statement: record
insert into ops.batch_models
select
    {{ batch_id }} as batch_id,
    {{ model_version }} as model_version,
    {{ challenger_version }} as challenger_version,
    {{ challenger_share }} as challenger_share,
    {{ challenger_threshold }} as challenger_threshold,
    {{ canary_started_at }} as canary_started_at;
