"""Replay: any file of interactions becomes events in their original order, and nothing is dropped in silence."""

import gzip
import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed_truth import EVENT_KEY, event_files, judge, read_lines

from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local.landing import RECIPE_SCHEMA, USER_SCHEMA
from kurashiru_pipeline.local.replay import replay

RATINGS = """userId,movieId,rating,timestamp
7,31,4.5,1000000300
7,32,2.0,1000000100
8,31,4.0,1000000200
9,33,,1000000250
"""
MOVIES = """movieId,title,genres
31,"Dangerous Minds, again (1995)",Drama|Comedy
32,Heat (1995),Action
40,Never rated (1999),Drama
"""


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def _events(landing: Path) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    lines = read_lines(landing)
    assert [judge(line, now) for line in lines] == [None] * len(lines)
    return [json.loads(line) for line in lines]


def _export(landing: Path, kind: str) -> dict[str, dict[str, Any]]:
    rows = ds.dataset(landing / kind, format="parquet").to_table().to_pylist()
    return {row[f"{kind[:-1]}_id"]: row for row in rows}


def _did(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(event["user_id"], event["recipe_id"], event["event_name"]) for event in events]


def test_ratings_become_events_in_their_order_ending_now(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    summary = replay(landing, _write(tmp_path, "ratings.csv", RATINGS), _write(tmp_path, "movies.csv", MOVIES))
    events = _events(landing)
    assert _did(events) == [
        ("7", "32", "recipe_view"),
        ("8", "31", "recipe_favorite"),
        ("9", "33", "recipe_view"),
        ("7", "31", "recipe_favorite"),
    ]
    times = [datetime.fromisoformat(event["occurred_at"]) for event in events]
    assert [time - times[0] for time in times] == [timedelta(seconds=s) for s in (0, 100, 150, 200)]
    assert timedelta(0) <= datetime.now(UTC) - times[-1] < timedelta(minutes=1)
    assert times[-1].microsecond == 0
    (file,) = event_files(landing)
    assert EVENT_KEY.fullmatch(file.relative_to(landing).as_posix())
    assert (summary["rows"], summary["landed"], summary["bad_rows"]) == (4, 4, {})
    assert summary["events_by_name"] == {"recipe_view": 2, "recipe_favorite": 2}
    assert not summary["is_compressed"]


def test_items_and_users_are_exported(tmp_path: Path) -> None:
    landing = tmp_path / "landing"
    summary = replay(landing, _write(tmp_path, "r.csv", RATINGS), _write(tmp_path, "movies.csv", MOVIES))
    recipes, users = _export(landing, "recipes"), _export(landing, "users")
    assert {recipe_id: (row["title"], row["value_tags"]) for recipe_id, row in recipes.items()} == {
        "31": ("Dangerous Minds, again (1995)", ["Drama", "Comedy"]),
        "32": ("Heat (1995)", ["Action"]),
        "33": ("33", []),
        "40": ("Never rated (1999)", ["Drama"]),
    }
    assert summary["items_without_details"] == 1
    assert set(users) == {"7", "8", "9"}
    first = {event["user_id"]: event["occurred_at"] for event in reversed(_events(landing))}
    assert users["7"]["registered_at"] == datetime.fromisoformat(first["7"])
    for kind, schema in (("recipes", RECIPE_SCHEMA), ("users", USER_SCHEMA)):
        (file,) = (landing / kind).iterdir()
        assert pq.read_schema(file).equals(schema)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv.gz", RATINGS),
        ("a.tsv", RATINGS.replace(",", "\t")),
        ("a.dat", "7::31::4.5::1000000300\n7::32::2.0::1000000100\n8::31::4.0::1000000200\n9::33::::1000000250\n"),
        ("u.data", "7\t31\t4.5\t1000000300\n7\t32\t2.0\t1000000100\n8\t31\t4.0\t1000000200\n9\t33\t\t1000000250\n"),
        ("a.csv", RATINGS.replace("userId,movieId", "User ID,recipe_id").replace("timestamp", "occurred-at")),
        ("ms.csv", re.sub("(1000000[0-9]{3})\n", r"\g<1>000\n", RATINGS)),
        (
            "iso.csv",
            "ts,user,item,rating\n2001-09-09T01:51:40Z,7,31,5\n2001-09-09 01:48:20,7,32,2\n"
            "2001-09-09T10:50:00+09:00,8,31,4\n2001-09-09 01:50:50 UTC,9,33,\n",
        ),
    ],
)  # fmt: skip
def test_formats_column_names_and_times_mean_the_same(tmp_path: Path, name: str, text: str) -> None:
    replay(tmp_path / "expected", _write(tmp_path, "expected.csv", RATINGS))
    replay(tmp_path / "landing", _write(tmp_path, name, text))
    events, expected = _events(tmp_path / "landing"), _events(tmp_path / "expected")
    assert _did(events) == _did(expected)
    gaps, expected_gaps = (
        [datetime.fromisoformat(e["occurred_at"]) - datetime.fromisoformat(of[-1]["occurred_at"]) for e in of]
        for of in (events, expected)
    )
    assert gaps == expected_gaps


def test_parquet_with_typed_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": pa.array([7.0, 8.0, None]),
            "item": pa.array([1, 2, 3]),
            "time": pa.array([datetime(2020, 1, 2), datetime(2020, 1, 1), datetime(2020, 1, 3)], pa.timestamp("ms")),
            "session_id": pa.array(['s "1"', None, "s2"]),
        }
    )
    pq.write_table(table, tmp_path / "interactions.parquet")
    items = pa.table({"id": pa.array([1, 2]), "name": ["Apple", "Pear"], "tags": [["red", "sweet"], None]})
    pq.write_table(items, tmp_path / "items.parquet")
    summary = replay(tmp_path / "landing", tmp_path / "interactions.parquet", tmp_path / "items.parquet")
    events = _events(tmp_path / "landing")
    assert _did(events) == [("8", "2", "recipe_view"), ("7", "1", "recipe_view")]
    assert [event["session_id"] for event in events] == [None, 's "1"']
    assert summary["bad_rows"] == {"no user": 1}
    assert _export(tmp_path / "landing", "recipes")["1"]["value_tags"] == ["red", "sweet"]


def test_actions_have_their_events_and_unknown_ones_keep_their_name(tmp_path: Path) -> None:
    actions = ["view", "Add to Cart", "like", "purchase", "recipe_cooked", "unlike", "pin", "", "search"]
    rows = "".join(f"u,i,{second},{action}\n" for second, action in enumerate(actions))
    replay(tmp_path / "landing", _write(tmp_path, "a.csv", "user,item,timestamp,action\n" + rows))
    assert [event["event_name"] for event in _events(tmp_path / "landing")] == [
        "recipe_view",
        "shopping_list_add",
        "recipe_favorite",
        "recipe_cooked",
        "recipe_cooked",
        "recipe_unfavorite",
        "pin",
        "recipe_view",
        "search",
    ]


def test_bad_rows_are_counted_with_their_reason_and_good_ones_land(tmp_path: Path) -> None:
    text = (
        "user,item,timestamp,action\n"
        "u1,i1,100,view\n"
        ",i1,100,view\n"
        "u1,,100,view\n"
        "u1,,100,search\n"
        "u1,i1,soon,view\n"
        "u1,i1,2020-02-30,view\n"
        "u1,i1,,view\n"
        f"u1,i1,100,{'x' * 65}\n"
        "u1,i1,100,view,more\n"
        "u1\n"
    )
    summary = replay(tmp_path / "landing", _write(tmp_path, "a.csv", text))
    assert _did(_events(tmp_path / "landing")) == [("u1", "i1", "recipe_view"), ("u1", None, "search")]
    assert summary["bad_rows"] == {
        "another number of fields than the header": 2,
        "no user": 1,
        "no item": 1,
        "no time": 3,
        "action over 64 characters": 1,
    }
    assert summary["rows"] == summary["landed"] + sum(summary["bad_rows"].values()) == 10


def test_ids_that_do_not_fit_the_contract_get_a_stable_form_everywhere(tmp_path: Path) -> None:
    text = "user,item,ts\nsomeone@example.com,豚汁,1\nfine_1,豚汁,2\n"
    items = _write(tmp_path, "items.csv", "id,title\n豚汁,Pork soup\n")
    ids = []
    for name in ("one", "two"):
        replay(tmp_path / name, _write(tmp_path, "a.csv", text), items)
        ids.append(_did(_events(tmp_path / name)))
        (recipe,) = _export(tmp_path / name, "recipes").values()
        assert recipe["title"] == "Pork soup"
        assert {recipe["recipe_id"]} == {event[1] for event in ids[-1]}
        assert set(_export(tmp_path / name, "users")) == {event[0] for event in ids[-1]}
    assert ids[0] == ids[1]
    assert ids[0][0][0].startswith("x-")
    assert ids[0][1][0] == "fine_1"
    assert "example" not in ids[0][0][0]


def test_one_row_a_tag_and_all_the_details(tmp_path: Path) -> None:
    items = _write(
        tmp_path,
        "items.csv",
        "item,title,tag,ingredients,author,published_at\n"
        '1,Soup,warm,pork|leek,Ann,90\n1,Soup,quick,pork,Ann,90\n2,,"sour, cold",,,\n,Nameless,x,,,\n',
    )
    summary = replay(tmp_path / "landing", _write(tmp_path, "a.csv", "user,item,ts\nu,1,100\nu,2,200\n"), items)
    recipes = _export(tmp_path / "landing", "recipes")
    assert recipes["1"]["value_tags"] == ["warm", "quick"]
    assert recipes["1"]["ingredients"] == ["pork", "leek"]
    assert recipes["1"]["author_id"] == "Ann"
    first = datetime.fromisoformat(_events(tmp_path / "landing")[0]["occurred_at"])
    assert first - recipes["1"]["published_at"] == timedelta(seconds=10)
    assert (recipes["2"]["title"], recipes["2"]["value_tags"]) == ("2", ["sour", "cold"])
    assert summary["item_rows_without_id"] == 1


def test_a_span_longer_than_the_retention_is_drawn_together_evenly(tmp_path: Path) -> None:
    year = 365 * 86_400
    text = "user,item,ts\n" + "".join(f"u,i{n},{1_000_000_000 + n * year}\n" for n in range(11))
    summary = replay(tmp_path / "landing", _write(tmp_path, "a.csv", text), retention_days=30)
    assert summary["is_compressed"]
    assert summary["original_days"] == 3_650
    assert summary["replayed_days"] == 28.5
    events = _events(tmp_path / "landing")
    assert [event["recipe_id"] for event in events] == [f"i{n}" for n in range(11)]
    times = [datetime.fromisoformat(event["occurred_at"]) for event in events]
    assert all(judge(line, datetime.now(UTC), retention_days=30) is None for line in read_lines(tmp_path / "landing"))
    gaps = {(later - earlier) / timedelta(days=2.85) for earlier, later in pairwise(times)}
    assert all(gap == pytest.approx(1.0, abs=1e-6) for gap in gaps)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 5), st.integers(0, 5), st.integers(0, 2_000_000_000), st.sampled_from(["", "1", "4.5"])
        ),
        min_size=1,
        max_size=60,
    )
)
def test_order_is_kept_and_the_same_file_again_is_all_duplicates(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, str]]
) -> None:
    folder = tmp_path_factory.mktemp("replay")
    text = "user,item,ts,rating\n" + "".join(f"{u},{i},{at},{rating}\n" for u, i, at, rating in rows)
    path = _write(folder, "a.csv", text)
    replay(folder / "once", path)
    once = _events(folder / "once")
    expected = sorted(rows, key=lambda row: row[2])
    assert [(event["user_id"], event["recipe_id"]) for event in once] == [(str(u), str(i)) for u, i, _, _ in expected]
    ids = [event["event_id"] for event in once]
    assert len(set(ids)) == len(rows), "equal rows are events of their own"
    replay(folder / "once", path)
    assert Counter(event["event_id"] for event in _events(folder / "once")) == dict.fromkeys(ids, 2)


def test_given_event_ids_are_kept(tmp_path: Path) -> None:
    identity = "0f8fad5b-d9cb-469f-a165-70867728950e"
    replay(tmp_path / "l", _write(tmp_path, "a.csv", f"user,item,ts,event_id\nu,i,1,{identity}\nu,i,2,17\n"))
    first, second = _events(tmp_path / "l")
    assert first["event_id"] == identity
    assert second["event_id"] != identity


def test_with_speed_events_land_as_the_clock_reaches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kurashiru_pipeline.local.replay._FILE_SECONDS", 0.2)
    text = "user,item,ts\n" + "".join(f"u{n},i{n},{1_000_000_000 + n * 60}\n" for n in range(60))
    landing = tmp_path / "landing"
    began = datetime.now(UTC) - timedelta(seconds=1)
    late: list[bool] = []
    progress: list[tuple[int, int | None]] = []

    def check(done: int, total: int | None) -> None:
        progress.append((done, total))
        newest = max(event["occurred_at"] for event in _events(landing))
        late.append(datetime.fromisoformat(newest) > datetime.now(UTC))

    summary = replay(landing, _write(tmp_path, "a.csv", text), speed=1_800, on_progress=check)
    events = sorted(_events(landing), key=lambda event: event["occurred_at"])  # files of a second have any order
    assert [event["user_id"] for event in events] == [f"u{n}" for n in range(60)]
    times = [datetime.fromisoformat(event["occurred_at"]) for event in events]
    assert times[0] >= began
    assert times[-1] - times[0] == pytest.approx(timedelta(hours=59 / 60) / 1_800, abs=timedelta(milliseconds=2))
    assert not any(late), "nothing lands before it happens"
    assert len(event_files(landing)) == summary["files"] > 1
    assert progress[-1] == (60, 60)
    assert all(row["published_at"] <= datetime.now(UTC) for row in _export(landing, "recipes").values())


def test_many_rows_go_into_several_files_in_the_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kurashiru_pipeline.local.replay._FILE_LINES", 100)
    text = "user,item,ts\n" + "".join(f"u,i{n},{1_000_000_000 + n * 90}\n" for n in range(950))
    summary = replay(tmp_path / "landing", _write(tmp_path, "a.csv", text))
    assert summary["files"] == len(event_files(tmp_path / "landing")) == 10
    assert [event["recipe_id"] for event in _events(tmp_path / "landing")] == [f"i{n}" for n in range(950)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "who,item,ts\n1,2,3\n", r"no column for the user: its columns are who, item, ts; rename .* userid"),
        ("a.csv", "user,item\n1,2\n", r"no column for the time: .*timestamp"),
        ("a.csv", "user,item,ts\n", "no usable row: it is empty"),
        ("a.csv", "user,item,ts\n,2,3\n", "no usable row: {'no user': 1}"),
        ("a.csv", "", "cannot be read"),
        ("a.xlsx", "x", "format that is not known; give .parquet, .csv"),
        ("a.parquet", "not parquet", "cannot be read"),
        ("a.dat", "1::2\n", "no usable row: {'another number of fields than the header': 1}"),
    ],
)
def test_files_of_no_use_say_why(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(KurashiruError, match=message):
        replay(tmp_path / "landing", _write(tmp_path, name, text))
    assert not (tmp_path / "landing").exists()


def test_other_mistakes_say_why(tmp_path: Path) -> None:
    good = _write(tmp_path, "a.csv", RATINGS)
    with pytest.raises(KurashiruError, match=r"missing\.csv cannot be read: .*No such file"):
        replay(tmp_path / "landing", tmp_path / "missing.csv")
    with pytest.raises(ConfigurationError, match="--speed is 0"):
        replay(tmp_path / "landing", good, speed=0)
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(RATINGS.encode())[:-9])
    with pytest.raises(KurashiruError, match=r"torn\.csv\.gz cannot be read"):
        replay(tmp_path / "landing", tmp_path / "torn.csv.gz")
    (tmp_path / "latin.csv").write_bytes("user,item,ts\ncafé,1,1\n".encode("latin-1"))
    with pytest.raises(KurashiruError, match=r"latin\.csv cannot be read"):
        replay(tmp_path / "landing", tmp_path / "latin.csv")
    assert not (tmp_path / "landing").exists()


def test_old_movielens_items_in_latin_1(tmp_path: Path) -> None:
    ratings = _write(tmp_path, "ratings.dat", "1::1::5::978300760\n")
    (tmp_path / "movies.dat").write_bytes('1::Le "Café" (1995)::Comedy|Drama\n'.encode("latin-1"))
    replay(tmp_path / "landing", ratings, tmp_path / "movies.dat")
    assert _export(tmp_path / "landing", "recipes")["1"]["title"] == 'Le "Café" (1995)'
