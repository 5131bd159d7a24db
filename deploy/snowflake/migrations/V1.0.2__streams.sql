-- Streams before pipes: what is loaded before its stream exists is not seen by it.
-- Each has one consumer, and only the orchestrator's role may read it.
create stream if not exists raw.str_behavior_events
    on table raw.behavior_events
    append_only = true
    comment = 'read by the stage step';
create stream if not exists raw.str_recipe_exports
    on table raw.recipe_exports
    append_only = true
    comment = 'read by the load step';
create stream if not exists raw.str_user_exports
    on table raw.user_exports
    append_only = true
    comment = 'read by the load step';
