-- Which models made each list of a canary. The canaries that began within canary_history_days of the newest one.
with canary_batches as (
    select *
    from {{ source('kurashiru_ledger', 'batch_models') }}
    where challenger_version is not null
    qualify canary_started_at >= max(canary_started_at) over () - interval '{{ var("canary_history_days") }} days'
),

-- A list of the user's own was made by a micro-batch with news of the user; the default list says nothing of an arm.
own_lists as (
    select distinct
        canary_batches.challenger_version,
        canary_batches.canary_started_at,
        canary_batches.challenger_share,
        canary_batches.challenger_threshold,
        canary_batches.model_version as champion_version,
        canary_batches.batch_id,
        behaviors.user_id
    from {{ ref('int_behaviors_deduplicated') }} as behaviors
    inner join canary_batches on behaviors.batch_id = canary_batches.batch_id
    where behaviors.event_name in {{ meaningful_event_names() }}
),

first_batches as (
    select cast(min(canary_started_at) as date) as shown_from
    from canary_batches
),

impressions as (
    select
        impressions.user_id,
        try_cast(impressions.recommendation_id as bigint) as batch_id,
        impressions.occurred_on,
        impressions.is_clicked
    from {{ ref('fct_recommendation_impressions') }} as impressions
    inner join first_batches on impressions.occurred_on >= first_batches.shown_from
)

select
    own_lists.challenger_version,
    own_lists.champion_version,
    own_lists.user_id,

    -- As core/canary.py: digits are compared as text.
    case
        when
            substr(md5(own_lists.challenger_version || ':' || own_lists.user_id), 1, 8)
            < own_lists.challenger_threshold
            then 'challenger'
        else 'champion'
    end as arm,

    own_lists.challenger_share,
    count(*) as impressions,
    count(case when impressions.is_clicked then 1 end) as clicks,

    impressions.occurred_on as shown_on,
    own_lists.canary_started_at
from impressions
inner join own_lists on impressions.user_id = own_lists.user_id and impressions.batch_id = own_lists.batch_id
group by
    own_lists.challenger_version,
    own_lists.champion_version,
    own_lists.user_id,
    own_lists.challenger_threshold,
    own_lists.challenger_share,
    impressions.occurred_on,
    own_lists.canary_started_at
