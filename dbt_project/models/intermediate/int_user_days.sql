{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ delete_backfilled_days('active_on') }}"
) }}

with arrived as (
    select
        user_id,
        occurred_on as active_on,
        min(loaded_at) as loaded_at
    from {{ ref('int_behaviors_deduplicated') }}
    where {{ arrived_since_last_run() }}
    group by user_id, occurred_on
)

select arrived.*
from arrived
{% if is_incremental() %}
left join {{ this }} as known on arrived.user_id = known.user_id and arrived.active_on = known.active_on
where known.user_id is null
{% endif %}
