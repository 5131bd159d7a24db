-- Users that an export has queued: to be erased, or to get a list by what they said of their taste.
-- statement: pending
select
    (select count(*) from ops.pending_erasures) as erasure_count,
    (select count(*) from ops.pending_preferences) as preference_count;
