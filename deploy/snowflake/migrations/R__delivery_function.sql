-- The way to DynamoDB: rows go in batches to API Gateway and Lambda, each answered with a status (docs/contracts.md).
-- Replacing the function drops its grants, and there are no future grants for external functions: hence the grant here.
-- max_batch_rows: 500 rows of at most 4 KB stay well below the 6 MB that Lambda takes and are written in a few seconds.
create or replace secure external function serving.put_items(
    user_id varchar, version number(18, 0), recommendation object
)
    returns variant not null
    called on null input
    volatile
    comment = 'conditional, versioned writes to DynamoDB'
    api_integration = {{ api_integration }}
    max_batch_rows = 500
    compression = gzip
    as '{{ api_url }}';
grant usage on function serving.put_items(varchar, number, object) to role {{ orchestrator }};
