-- Invariants of the profiles and counts the micro-batch has just changed.
-- statement: checks
select
    (
        select count(*)
        from (
            select histories.user_id
            from {{ keyed_row_counts('recommendation.recent_behaviors', query('touched_users')) }} as histories
            where histories.user_id in ({{ query('touched_users') }})
            union
            select preferences.user_id from ({{ query('batch_preferences') }}) as preferences
        ) as users
        where
            user_id not in (
                select user_id
                from {{ keyed('recommendation.user_profiles', query('touched_users')) }}
                where batch_id = {{ batch_id }}
            )
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
