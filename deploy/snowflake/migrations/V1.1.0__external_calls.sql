-- One row a micro-batch for which an external recommender is asked (KURASHIRU_EXTERNAL_SOURCE).
create table if not exists ops.external_calls (
    batch_id bigint,
    source varchar,
    breaker varchar,
    asked_count bigint,
    answered_count bigint,
    failed_count bigint,
    late_count bigint,
    unknown_count bigint,
    seconds double,
    error varchar,
    called_at timestamp_ntz
);
