-- Invariants of the profiles and counts the micro-batch has just changed.
-- statement: checks
select
    (
        select count(*)
        from (
            select behaviors.user_id from ({{ query('batch_behaviors') }}) as behaviors
            union
            select preferences.user_id from ({{ query('batch_preferences') }}) as preferences
        ) as users
        where user_id not in (select user_id from recommendation.user_profiles where batch_id = {{ batch_id }})
    ) as users_without_profile,
    (
        select count(*)
        from (
            select
                decayed_count,
                decayed_at
            from recommendation.live_popularity
            union all
            select
                decayed_count,
                decayed_at
            from recommendation.segment_popularity
        ) as popularity
        where not decayed_count between 0 and 1e15 or decayed_at > {{ watermark_at }}
    ) as impossible_popularity;
