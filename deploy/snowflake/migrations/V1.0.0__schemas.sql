-- Schemas. Managed access: only the owner of the schema (the deploy role) grants, not the owners of objects in it.
-- A stream can be read for max_data_extension_time_in_days after it was last consumed.
create schema if not exists raw with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'lines and exports as Snowpipe loaded them, and the streams on them';
create schema if not exists staging with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'typed events, rejects, recipes and users; the views of dbt on them';
create schema if not exists recommendation with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'recent behaviours, profiles, popularity, ranked lists; the functions that compute them';
create schema if not exists serving with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'what DynamoDB holds, and how it comes there';
create schema if not exists ops with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'ledger of the micro-batches, lease of the writer, history of deployments';
create schema if not exists model with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'code, model artifacts and kernel inputs on stages';
create schema if not exists intermediate with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'made by dbt';
create schema if not exists marts with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'made by dbt, read by people and reports';
