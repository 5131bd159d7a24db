-- Invariants of the profiles and counts the micro-batch has just changed.
-- statement: checks
select
    (
        select count(distinct user_id)
        from recommendation.recent_behaviors
        where
            user_id in (
                select user_id
                from staging.behavior_events
                where batch_id = {{ batch_id }} and event_name in {{ meaningful_event_names }}
            )
            and user_id not in (select user_id from recommendation.user_profiles where batch_id = {{ batch_id }})
    ) as users_without_profile,
    (
        select count(*)
        from recommendation.live_popularity
        where not decayed_count between 0 and 1e15 or decayed_at > {{ watermark_at }}
    ) as impossible_popularity;
