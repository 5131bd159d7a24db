-- File formats and stages. Events are read as whole lines, so that a malformed one reaches quarantine and does not fail
-- its file; what could fail a file (a blank line, bytes that are no UTF-8) is skipped or replaced instead.
create file format if not exists raw.ff_lines
    type = csv
    compression = auto
    record_delimiter = '\n'
    field_delimiter = none
    skip_blank_lines = true
    escape = none
    escape_unenclosed_field = none
    trim_space = false
    field_optionally_enclosed_by = none
    null_if = ()
    replace_invalid_characters = true
    empty_field_as_null = false
    comment = 'one line, one column';
create file format if not exists raw.ff_parquet
    type = parquet
    binary_as_text = false
    use_logical_type = true
    use_vectorized_scanner = true
    comment = 'recipe and user exports';

create stage if not exists raw.landing
    url = '{{ landing_url }}'
    storage_integration = {{ storage_integration }}
    comment = 'the landing bucket: events/, recipes/, users/';
-- Files that functions read by scoped URL must be encrypted by the server.
create stage if not exists model.code
    encryption = (type = 'SNOWFLAKE_SSE')
    comment = 'kernel code, one zip a version';
create stage if not exists model.artifacts
    encryption = (type = 'SNOWFLAKE_SSE')
    comment = 'model artifacts, one folder a version';
create stage if not exists model.inputs
    encryption = (type = 'SNOWFLAKE_SSE')
    comment = 'recipes and popularity as one micro-batch sees them';
