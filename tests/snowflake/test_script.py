"""Statements of a script."""

import pytest

from tests.snowflake import script

pytestmark = pytest.mark.stand_in


@pytest.mark.parametrize(
    ("text", "statements"),
    [
        ("select 1; select 2", ["select 1", "select 2"]),
        ("select 1;\n-- the end;\n", ["select 1"]),
        ("select ';', 'it''s;', 'back\\';slash'; select 2", ["select ';', 'it''s;', 'back\\';slash'", "select 2"]),
        ('select "a;b" from t -- no; \n where x; y', ['select "a;b" from t -- no; \n where x', "y"]),
        ("create function f() as $$ a; b $$; /* c; */ d", ["create function f() as $$ a; b $$", "/* c; */ d"]),
        (" ;; ", []),
    ],
)
def test_split(text: str, statements: list[str]) -> None:
    assert script.split(text) == statements


def test_without_leading_comments() -> None:
    assert script.without_leading_comments(" -- a\n/* b */ select 1 -- c\n") == "select 1 -- c"
    assert script.without_leading_comments("--only") == ""


def test_without_comments() -> None:
    text = "-- a\nselect '--no', 1 /* b */ from t -- c\n/* {} */"
    assert script.without_comments(text) == "select '--no', 1   from t"


def test_replacing_outside_quotes() -> None:
    assert script.replace_plain("$1, '$1', t.$2", r"\$(\d)", r"<\1>") == "<1>, '$1', t.<2>"


def test_closing_bracket() -> None:
    assert script.closing_bracket("(a, ')', (b))", 0) == 12
    with pytest.raises(ValueError, match="not closed"):
        script.closing_bracket("(a", 0)
