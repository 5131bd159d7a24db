-- One-time set-up by an account administrator: roles, warehouses, monitors, database, service users, integrations.
-- Printed by `kurashiru deploy snowflake --bootstrap --dry-run`, applied without --dry-run. It may be run again: what
-- is there stays as it is, so change a size or a quota with ALTER, not here.
use role accountadmin;

-- Roles. The deployer owns every object; the orchestrator runs the pipeline; the transformer runs dbt and training and
-- is part of the orchestrator; the reader sees the marts.
create role if not exists {{ deployer }} comment = 'kurashiru: owns and deploys every object';
create role if not exists {{ orchestrator }} comment = 'kurashiru: runs the pipeline';
create role if not exists {{ transformer }} comment = 'kurashiru: dbt and model training';
create role if not exists {{ reader }} comment = 'kurashiru: reads the marts';
grant role {{ transformer }} to role {{ orchestrator }};
grant role {{ deployer }} to role sysadmin;
grant role {{ orchestrator }} to role sysadmin;
grant role {{ reader }} to role sysadmin;

-- For the serverless task that may stage in place of the runs; it is made suspended.
grant execute task on account to role {{ deployer }};
grant execute managed task on account to role {{ deployer }};

-- Warehouses. A statement that takes longer than its time-out is stuck, not slow.
create warehouse if not exists {{ pipeline_warehouse }} with
    warehouse_size = 'XSMALL'
    auto_suspend = 60
    auto_resume = true
    initially_suspended = true
    comment = 'kurashiru: micro-batches'
    statement_queued_timeout_in_seconds = 300
    statement_timeout_in_seconds = 900;
create warehouse if not exists {{ analytics_warehouse }} with
    warehouse_size = 'SMALL'
    auto_suspend = 60
    auto_resume = true
    initially_suspended = true
    comment = 'kurashiru: dbt and model training'
    statement_queued_timeout_in_seconds = 1800
    statement_timeout_in_seconds = 7200;
create warehouse if not exists {{ read_warehouse }} with
    warehouse_size = 'XSMALL'
    auto_suspend = 60
    auto_resume = true
    initially_suspended = true
    comment = 'kurashiru: people and reports'
    statement_queued_timeout_in_seconds = 300
    statement_timeout_in_seconds = 900;
grant usage on warehouse {{ pipeline_warehouse }} to role {{ deployer }};
grant usage on warehouse {{ pipeline_warehouse }} to role {{ orchestrator }};
grant usage on warehouse {{ analytics_warehouse }} to role {{ transformer }};
grant usage on warehouse {{ read_warehouse }} to role {{ reader }};

-- Credits. The quotas are a first guess: raise them to your own figure. Recommendations must not stop over a quota, so
-- the pipeline's monitor only notifies. Monitors count warehouses; for Snowpipe, use a budget on the database:
-- https://docs.snowflake.com/en/user-guide/budgets
create resource monitor if not exists {{ pipeline_warehouse }} with
    credit_quota = 800
    frequency = monthly
    start_timestamp = immediately
    triggers on 75 percent do notify on 100 percent do notify on 150 percent do notify;
create resource monitor if not exists {{ analytics_warehouse }} with
    credit_quota = 300
    frequency = monthly
    start_timestamp = immediately
    triggers on 75 percent do notify on 100 percent do suspend;
alter warehouse {{ pipeline_warehouse }} set resource_monitor = {{ pipeline_warehouse }};
alter warehouse {{ analytics_warehouse }} set resource_monitor = {{ analytics_warehouse }};
alter warehouse {{ read_warehouse }} set resource_monitor = {{ analytics_warehouse }};

-- Database, and the schema in which schemachange keeps its history before the first migration has run. One day of Time
-- Travel is what every edition has.
create database if not exists {{ database }}
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'kurashiru: behaviour events to recommendations';
create schema if not exists {{ database }}.ops with managed access
    data_retention_time_in_days = 1
    max_data_extension_time_in_days = 30
    comment = 'ledger of the micro-batches, lease of the writer, history of deployments';
grant ownership on schema {{ database }}.ops to role {{ deployer }} copy current grants;
grant ownership on database {{ database }} to role {{ deployer }} copy current grants;

-- Service users. They have no password and cannot log in before they are given a key or an identity (see the end).
-- No default warehouse: the sensor's session must have none, so that looking for work never wakes one.
create user if not exists {{ user }}
    default_namespace = {{ database }}
    default_role = {{ orchestrator }}
    default_secondary_roles = ()
    type = service
    comment = 'kurashiru: the pipeline';
create user if not exists {{ deploy_user }}
    default_namespace = {{ database }}
    default_role = {{ deployer }}
    default_secondary_roles = ()
    type = service
    comment = 'kurashiru: deployments';
grant role {{ orchestrator }} to user {{ user }};
grant role {{ transformer }} to user {{ user }};
grant role {{ deployer }} to user {{ deploy_user }};

-- S3. The external id is ours, so making the integration again does not break the trust of the AWS role.
create storage integration if not exists {{ storage_integration }}
    type = external_stage
    storage_provider = 'S3'
    storage_aws_role_arn = '{{ storage_role_arn }}'
    storage_aws_external_id = '{{ external_id }}'
    enabled = true
    storage_allowed_locations = ('{{ landing_url }}')
    comment = 'kurashiru: reads the landing bucket';
grant usage on integration {{ storage_integration }} to role {{ deployer }};

-- API Gateway. The external id of an API integration is made by Snowflake itself: trust.sql asks for it.
create api integration if not exists {{ api_integration }}
    api_provider = aws_api_gateway
    api_aws_role_arn = '{{ api_role_arn }}'
    api_allowed_prefixes = ('{{ api_url }}')
    enabled = true
    comment = 'kurashiru: the delivery API';
grant usage on integration {{ api_integration }} to role {{ deployer }};

-- By hand, once for each service user, one of the two:
--   alter user {{ user }} set rsa_public_key = '<the base64 lines of the public key, joined>';
--   alter user {{ user }} set workload_identity = (type = aws arn = '<ARN of the AWS role that runs the pipeline>');
--   alter user {{ deploy_user }} set rsa_public_key = '<another key>';
-- Recommended, with your own addresses: only they may log in as these users.
--   create network rule {{ database }}.ops.pipeline_hosts mode = ingress type = ipv4 value_list = ('<address>/32');
--   create network policy {{ database }}_hosts allowed_network_rule_list = ('{{ database }}.ops.pipeline_hosts');
--   alter user {{ user }} set network_policy = {{ database }}_hosts;
-- Optional: e-mail or a page for a file that Snowpipe could not load (kurashiru doctor reports it in any case).
--   create notification integration {{ database }}_pipe_errors enabled = true type = queue
--       notification_provider = aws_sns direction = outbound
--       aws_sns_topic_arn = '<topic>' aws_sns_role_arn = '<role>';
--   alter pipe {{ database }}.raw.pipe_behavior_events set error_integration = {{ database }}_pipe_errors;
