"""The SQL files, and values of the right type for whatever they must be given.

Here: what tests over all scripts have in common.
Not here: what a script does with its values (test_*_sql.py).
"""

import re
from datetime import datetime
from typing import Any

import jinja2
import jinja2.meta

from kurashiru_pipeline.warehouse.statements import CONTRACT, SQL_FOLDER

COMMON = sorted(path.stem for path in SQL_FOLDER.glob("*.sql"))
SNOWFLAKE = sorted(f"snowflake/{path.stem}" for path in SQL_FOLDER.glob("snowflake/*.sql"))
MOMENT = datetime(2026, 11, 23, 9, 30)
_KEYED = {"keyed", "keyed_part", "keyed_row_counts", "keyed_has_rows", "keyed_counted"}
_GLOBALS = {"fields", "engine", "stream", "query", *_KEYED}
_VALUES: dict[str, Any] = {
    "action_weights": {"recipe_view": 0.5, "recipe_cooked": 3.0},
    "as_of": MOMENT.isoformat(),
    "canary": "v2 2026-11-23T09:30:00",
    "challenger_share": 0.05,
    "challenger_threshold": "0ccccccd",
    "challenger_version": "v2",
    "cutoff": MOMENT,
    "default_user": "#default",
    "duplicates_from": MOMENT,
    "impersonal_profiles": '[{"user_id": "#default", "as_of": "2026-11-23T09:30:00"}]',
    "latest_parts_first": {"night": 21, "morning": 5},
    "model_version": "v1",
    "part": 0,
    "part_over_midnight": "night",
    "platforms": ["ios", "web"],
    "segment_prefix": "#segment:",
    "segments": ["#segment:ios:night"],
    "since": MOMENT,
    "source": "sagemaker:endpoint",
    "user_id": "u1",
    "word": "egg",
}
_EPOCH = {"generated_at": 1_795_426_200, "expires_at": 1_798_018_200}


def source_of(script: str) -> str:
    return (SQL_FOLDER / f"{script}.sql").read_text(encoding="utf-8")


def changes_tables(script: str) -> bool:
    """Whether a script is no query."""
    source = source_of(script)
    verbs = any(f"\n{verb} " in source for verb in ("insert", "delete", "update", "create", "copy"))
    return verbs or bool(re.search(r"^-- statement: [\w.]+ ", source, re.MULTILINE))


def parameters_of(script: str) -> dict[str, Any]:
    """What a script must be given, with values of a type that its names tell."""
    engine = "snowflake" if script in SNOWFLAKE else "ducklake"
    macros = (SQL_FOLDER / "macros" / f"{engine}.sql").read_text(encoding="utf-8")
    syntax = jinja2.Environment().parse(macros + source_of(script))
    names = jinja2.meta.find_undeclared_variables(syntax) - _GLOBALS - CONTRACT.keys()
    given = {name: value_of(name) for name in names}
    if script == "snowflake/begin_delivery":
        given |= _EPOCH
    for inner in re.findall(r"query\('([\w/]+)'\)", source_of(script)):
        given |= parameters_of(inner)
    return given


def value_of(name: str) -> Any:
    if name in _VALUES:
        return _VALUES[name]
    if name.endswith(("_at", "_before", "_since")):
        return MOMENT
    if name.endswith(("_names", "_ids")):
        return ["search", "recipe_view"]
    return name.startswith("is_") or 1
