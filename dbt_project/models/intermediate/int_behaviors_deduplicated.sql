{{ config(
    materialized='incremental',
    incremental_strategy='append',
    cluster_by=['occurred_on'],
    pre_hook="{{ delete_backfilled_days() }}"
) }}

with arrived as (
    select *
    from {{ ref('stg_kurashiru__behavior_events') }}
    where {{ arrived_since_last_run() }}
),

first_deliveries as (
    select *
    from arrived
    qualify row_number() over (partition by event_id order by batch_id, loaded_at, landed_at, occurred_at) = 1
)

select first_deliveries.*
from first_deliveries
{% if is_incremental() %}
left join {{ this }} as known on first_deliveries.event_id = known.event_id
where known.event_id is null
{% endif %}
