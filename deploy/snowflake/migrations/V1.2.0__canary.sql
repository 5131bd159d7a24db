-- Which models made each micro-batch's lists; the canary beside the model in service; what was decided about models.

create table if not exists ops.batch_models (
    batch_id bigint,
    model_version varchar,
    challenger_version varchar,
    challenger_share double,
    challenger_threshold varchar,
    canary_started_at timestamp_ntz
);
-- One row a change; the newest counts, unless a promotion is newer. Without a version: the canary ended.
create table if not exists model.canaries (
    version varchar,
    share double,
    started_at timestamp_ntz,
    changed_at timestamp_ntz
);
-- One row a decision of the gate or of a person; figures are JSON.
create table if not exists model.decisions (
    recorded_at timestamp_ntz,
    action varchar,
    version varchar,
    reason varchar,
    figures varchar
);
