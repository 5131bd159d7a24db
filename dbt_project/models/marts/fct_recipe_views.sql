{{ config(
    materialized='incremental',
    incremental_strategy='append',
    cluster_by=['occurred_on'],
    pre_hook="{{ delete_backfilled_days() }}"
) }}

with arrived as (
    select *
    from {{ ref('int_behaviors_deduplicated') }}
    where event_name = 'recipe_view' and {{ arrived_since_last_run() }}
)

select
    arrived.event_id,
    arrived.user_id,
    arrived.session_id,
    arrived.recipe_id,

    arrived.platform,
    arrived.app_version,
    arrived.surface,

    arrived.occurred_on,
    arrived.occurred_at,
    arrived.loaded_at
from arrived
{% if is_incremental() %}
left join {{ this }} as known on arrived.event_id = known.event_id
where known.event_id is null
{% endif %}
