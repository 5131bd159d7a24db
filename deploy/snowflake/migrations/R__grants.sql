-- Who may do what. Future grants on schemas only: one of them would switch off every future grant on the database.
-- Temporary tables need no privilege.
grant usage on database {{ database }} to role {{ orchestrator }};
grant usage on database {{ database }} to role {{ transformer }};
grant usage on database {{ database }} to role {{ reader }};

-- The orchestrator: reads what was loaded, writes every table of the pipeline; its streams, the state of the pipes.
grant usage on schema raw to role {{ orchestrator }};
grant select on all tables in schema raw to role {{ orchestrator }};
grant select on future tables in schema raw to role {{ orchestrator }};
grant insert on table raw.loaded_files to role {{ orchestrator }};
{%- for schema in ("staging", "recommendation", "serving", "ops") %}
grant usage on schema {{ schema }} to role {{ orchestrator }};
grant select, insert, update, delete on all tables in schema {{ schema }} to role {{ orchestrator }};
grant select, insert, update, delete on future tables in schema {{ schema }} to role {{ orchestrator }};
{%- endfor %}
revoke insert, update, delete on table ops.change_history from role {{ orchestrator }};
grant select on all streams in schema raw to role {{ orchestrator }};
grant select on future streams in schema raw to role {{ orchestrator }};
grant monitor on pipe raw.pipe_behavior_events to role {{ orchestrator }};
grant monitor on pipe raw.pipe_recipe_exports to role {{ orchestrator }};
grant monitor on pipe raw.pipe_user_exports to role {{ orchestrator }};

-- The transformer: reads what the pipeline wrote, makes what dbt and training make. It owns what it makes; schemas of
-- its own are for pull requests.
grant create schema on database {{ database }} to role {{ transformer }};
{%- for schema in ("staging", "recommendation", "serving", "ops") %}
grant usage on schema {{ schema }} to role {{ transformer }};
grant select on all tables in schema {{ schema }} to role {{ transformer }};
grant select on future tables in schema {{ schema }} to role {{ transformer }};
{%- endfor %}
grant create view on schema staging to role {{ transformer }};
{%- for schema in ("intermediate", "marts") %}
grant usage, create table, create view on schema {{ schema }} to role {{ transformer }};
{%- endfor %}
grant usage, create procedure on schema model to role {{ transformer }};
grant select, insert on all tables in schema model to role {{ transformer }};
grant select, insert on future tables in schema model to role {{ transformer }};
grant create function on schema recommendation to role {{ transformer }};
{%- for stage in ("model.code", "model.artifacts", "model.inputs") %}
grant read on stage {{ stage }} to role {{ transformer }};
grant write on stage {{ stage }} to role {{ transformer }};
{%- endfor %}

-- The reader: marts, whatever dbt makes of them.
grant usage on schema marts to role {{ reader }};
grant select on all tables in schema marts to role {{ reader }};
grant select on future tables in schema marts to role {{ reader }};
grant select on all views in schema marts to role {{ reader }};
grant select on future views in schema marts to role {{ reader }};
