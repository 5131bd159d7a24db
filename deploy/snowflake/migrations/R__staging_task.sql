-- The stage step as Snowflake's own serverless task: events are staged while Dagster is down. Whether this task or the
-- runs stage is KURASHIRU_STAGING; docs/operations.md says how to switch from one to the other.
-- The procedure's block is made of the stage step's own SQL files (kurashiru_pipeline/deployment/staging_task.py). It
-- keeps no state, so it is replaced whenever one of them, or a setting in them, changes.
create or replace procedure ops.stage_micro_batch()
    returns number
    language sql
    comment = 'stages what Snowpipe has loaded: one micro-batch'
    execute as owner
as
$$
{{ stage_procedure }}
$$;

-- Suspended until somebody resumes it. One instance at a time; at most one micro-batch a minute, since each costs the
-- runs the same statements however small it is. What the session must be like is what the runs' sessions are like.
create task if not exists ops.task_stage_micro_batch
    user_task_managed_initial_warehouse_size = 'XSMALL'
    timezone = 'UTC',
    timestamp_type_mapping = 'TIMESTAMP_NTZ',
    timestamp_input_format = 'AUTO',
    transaction_abort_on_error = true,
    lock_timeout = 600,
    query_tag = '{"app": "kurashiru_pipeline", "run": "task", "statement": "stage_micro_batch"}'
    suspend_task_after_num_failures = 10
    comment = 'stages in place of the runs; never resumed while they stage'
    user_task_minimum_trigger_interval_in_seconds = 60
    target_completion_interval = '1 MINUTE'
    when system$stream_has_data('{{ database }}.raw.str_behavior_events')
as
call {{ database }}.ops.stage_micro_batch();
grant monitor, operate on task ops.task_stage_micro_batch to role {{ orchestrator }};
