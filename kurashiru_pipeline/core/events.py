"""The behaviour event: names, fields, limits and reject reasons of the contract (docs/contracts.md).

Here: constants and patterns that SQL, simulator and tests share, so that they cannot drift apart.
Not here: parsing; the warehouse does that, in sql/stage_parse.sql.
"""

EVENT_FIELDS = (
    "event_id",
    "event_name",
    "user_id",
    "session_id",
    "recipe_id",
    "occurred_at",
    "platform",
    "app_version",
    "properties",
)

EVENT_NAMES = (
    "recipe_impression",
    "recipe_view",
    "recipe_favorite",
    "recipe_unfavorite",
    "recipe_cooked",
    "shopping_list_add",
    "search",
    "recommendation_impression",
    "recommendation_click",
)

# What tells something of the user's wishes; an impression is what we did, not the user.
MEANINGFUL_EVENT_NAMES = (
    "recipe_view",
    "recipe_favorite",
    "recipe_unfavorite",
    "recipe_cooked",
    "shopping_list_add",
    "search",
    "recommendation_click",
)

# In the order in which they are tried; the first that holds is the reason.
REJECT_REASONS = (
    "line_too_long",
    "not_json",
    "not_an_object",
    "bad_event_id",
    "bad_event_name",
    "bad_user_id",
    "bad_recipe_id",
    "bad_occurred_at",
    "occurred_in_future",
    "occurred_before_retention",
)

MAX_LINE_BYTES = 1_000_000
MAX_HOURS_AHEAD = 24

UUID_PATTERN = "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
ID_PATTERN = "[A-Za-z0-9_-]{1,64}"
EVENT_NAME_PATTERN = ".{1,64}"
TIME_PATTERN = "[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?Z"
