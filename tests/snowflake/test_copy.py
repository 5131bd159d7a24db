"""Files: stages, COPY INTO both ways, PUT / GET / LIST / REMOVE, pipes and their history."""

import gzip
import json
import os
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snowflake.connector.errors import ProgrammingError

from tests.snowflake.ask import Open, column, rows, run, value
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

pytestmark = pytest.mark.stand_in

_WHOLE_LINES = (
    "type = csv field_delimiter = none escape_unenclosed_field = none null_if = () empty_field_as_null = false "
    "replace_invalid_characters = true"
)
_LINES = (
    "lines (payload varchar, file_name varchar, row_number bigint, landed_at timestamp_ntz, loaded_at timestamp_ntz)"
)
_COPY_LINES = """
    copy into lines from (
        select $1, metadata$filename, metadata$file_row_number, metadata$file_last_modified,
            convert_timezone('UTC', metadata$start_scan_time)::timestamp_ntz
        from @landing/events/
    ) file_format = (format_name = 'ff_lines')
"""


@pytest.fixture
def landing(account: StandIn, session: Connection, schema: str) -> Path:
    """The folder that stage `landing` stands for, and a table of lines."""
    folder = account.landing / schema
    run(
        session,
        f"create stage landing url = 'file://{folder}/'",
        f"create file format ff_lines {_WHOLE_LINES}",
        f"create table {_LINES}",
    )
    return folder


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_whole_lines(session: Connection, landing: Path) -> None:
    lines = b'{"a": "\\u3042"}\n"quoted", and \\n escaped\n\n\\N\nbroken \xff utf-8\nwindows\r\nlast without end'
    path = put(landing, "events/2026/a.gz", gzip.compress(lines))
    os.utime(path, (1767225600, 1767225600))
    [loaded] = rows(session, _COPY_LINES)
    assert loaded[:4] == ("events/2026/a.gz", "LOADED", 7, 7)
    assert column(session, "select payload from lines order by row_number") == [
        '{"a": "\\u3042"}', '"quoted", and \\n escaped', "", "\\N", "broken \ufffd utf-8", "windows", "last without end"
    ]  # fmt: skip
    figures = "select file_name, landed_at, min(row_number), max(row_number) from lines group by 1, 2"
    assert rows(session, figures) == [("events/2026/a.gz", datetime(2026, 1, 1), 1, 7)]


@pytest.mark.parametrize(
    ("option", "refused"),
    [
        ("field_delimiter = none", "FIELD_DELIMITER"),
        ("escape_unenclosed_field = none", "ESCAPE_UNENCLOSED_FIELD"),
        ("null_if = ()", "NULL_IF"),
    ],
)
def test_a_format_that_would_take_lines_apart_is_refused(
    session: Connection, landing: Path, option: str, refused: str
) -> None:
    put(landing, "events/a", b"x")
    run(session, f"create or replace file format ff_lines {_WHOLE_LINES.replace(option, '')}")
    with pytest.raises(ProgrammingError, match=f"does not emulate.*{refused}"):
        run(session, _COPY_LINES)


def test_options_of_lines(session: Connection, landing: Path) -> None:
    put(landing, "events/a", b"\xef\xbb\xbfhead\n\n x \n\xff\n")
    run(session, f"create or replace file format ff_lines {_WHOLE_LINES} skip_blank_lines = true skip_header = 1")
    run(session, _COPY_LINES)
    assert column(session, "select payload from lines order by row_number") == [" x ", "\ufffd"]


def test_each_file_is_loaded_once(session: Connection, landing: Path) -> None:
    put(landing, "events/a", b"1\n")
    run(session, _COPY_LINES)
    assert rows(session, _COPY_LINES) == [("Copy executed with 0 files processed.",)]
    put(landing, "events/b", b"2\n")
    assert column(session, _COPY_LINES) == ["events/b"]
    run(session, f"{_COPY_LINES} force = true")
    assert column(session, "select payload from lines order by 1") == ["1", "1", "2", "2"]


def test_which_files(session: Connection, landing: Path) -> None:
    for name in ("events/a.txt", "events/b.log", "events/deep/c.txt", "other/d.txt", "eventsx/e.txt", "events/.f.txt"):
        put(landing, name, name.encode())
    run(session, f"{_COPY_LINES} pattern = '.*[.]txt'")
    assert column(session, "select payload from lines order by 1") == ["events/a.txt", "events/deep/c.txt"]
    run(session, f"{_COPY_LINES} files = ('b.log')")
    assert value(session, "select count(*) from lines") == 3


def test_a_copy_takes_part_in_a_transaction(session: Connection, landing: Path) -> None:
    put(landing, "events/a", b"1\n")
    run(session, "begin", _COPY_LINES, "rollback")
    assert value(session, "select count(*) from lines") == 0
    run(session, _COPY_LINES)
    assert value(session, "select count(*) from lines") == 1


def test_a_copy_feeds_streams(session: Connection, landing: Path) -> None:
    run(session, "create stream s on table lines append_only = true")
    put(landing, "events/a", b"1\n2\n")
    run(session, _COPY_LINES)
    assert column(session, "select payload from s order by 1") == ["1", "2"]


def test_a_transformation_is_a_simple_select_of_documented_functions(session: Connection, landing: Path) -> None:
    put(landing, "events/a", b"1\n")
    for query, message in (
        ("select coalesce($1, '') from @landing", "'COALESCE' is not supported"),
        ("select $1 from @landing where $1 = '1'", "only supports simple SELECT"),
    ):
        with pytest.raises(ProgrammingError, match=message):
            run(session, f"copy into lines (payload) from ({query}) file_format = (format_name = 'ff_lines')")


@pytest.fixture
def documents(session: Connection, landing: Path) -> Path:
    """A table of what NDJSON in the stage holds."""
    run(session, "create table docs (name varchar, n number(38, 0), tags array, at timestamp_ntz, whole variant)")
    return landing


_COPY_DOCUMENTS = """
    copy into docs from (
        select $1:name::varchar, d.$1:n::number(38, 0), $1:tags::array, $1:at::timestamp_ntz, $1 from @landing/docs/ d
    ) file_format = (type = json)
"""


def test_documents(session: Connection, documents: Path) -> None:
    lines = [
        {"name": "it's", "n": 5, "tags": ["a"], "at": "2026-01-01T00:00:00.123456"},
        {"name": None, "n": 2**40, "tags": []},
    ]
    text = "\n".join(json.dumps(line) for line in lines)
    put(documents, "docs/a.json.gz", gzip.compress(text.encode()))
    run(session, _COPY_DOCUMENTS)
    assert rows(session, "select name, n, tags, at from docs order by n") == [
        ("it's", 5, '["a"]', datetime(2026, 1, 1, 0, 0, 0, 123456)),
        (None, 2**40, "[]", None),
    ]
    assert column(session, "select is_null_value(whole:name) from docs order by n") == [False, True]


def test_a_file_that_cannot_be_read(session: Connection, documents: Path) -> None:
    put(documents, "docs/good.json", b'{"name": "good"}\n')
    put(documents, "docs/broken.json", b'{"name": "first"}\n{"name": \n')
    put(documents, "docs/broken.json.gz", gzip.compress(b'{"name": "x"}')[:-9])
    with pytest.raises(ProgrammingError, match=r"broken\.json"):
        run(session, _COPY_DOCUMENTS)
    assert value(session, "select count(*) from docs") == 0
    found = {row[0]: row[1:6] for row in rows(session, f"{_COPY_DOCUMENTS} on_error = continue")}
    assert found == {
        "docs/good.json": ("LOADED", 1, 1, 1, 0),
        "docs/broken.json": ("PARTIALLY_LOADED", 2, 1, 1, 1),
        "docs/broken.json.gz": ("LOAD_FAILED", 1, 0, 1, 1),
    }
    assert column(session, "select name from docs order by 1") == ["first", "good"]


def test_skip_file(session: Connection, documents: Path) -> None:
    put(documents, "docs/good.json", b'{"name": "good"}\n')
    put(documents, "docs/broken.json", b'{"name": "first"}\n{"name": \n')
    assert {row[0]: row[1] for row in rows(session, f"{_COPY_DOCUMENTS} on_error = skip_file")} == {
        "docs/good.json": "LOADED",
        "docs/broken.json": "LOAD_FAILED",
    }
    assert column(session, "select name from docs") == ["good"]


_PARQUET = pa.table(
    {
        "name": ["a", None],
        "tags": [["x", "y"], []],
        "naive": pa.array([datetime(2026, 1, 1, 1, 2, 3, 456789)] * 2, pa.timestamp("us")),
        "n": pa.array([1, None], pa.int32()),
    }
)


def test_parquet(session: Connection, landing: Path) -> None:
    landing.mkdir()
    pq.write_table(_PARQUET, landing / "p.parquet")
    run(session, "create table p (name varchar, tags array, naive timestamp_ntz, n int, file_name varchar)")
    run(
        session,
        "copy into p from (select $1:name::varchar, $1:tags::array, $1:naive::timestamp_ntz, $1:n::int, "
        "metadata$filename from @landing) file_format = (type = parquet use_logical_type = true)",
    )
    moment = datetime(2026, 1, 1, 1, 2, 3, 456789)
    want = [("a", '["x","y"]', moment, 1, "p.parquet"), (None, "[]", moment, None, "p.parquet")]
    assert rows(session, "select * from p order by n") == want
    run(session, "truncate table p")
    run(
        session,
        "copy into p from @landing file_format = (type = parquet use_logical_type = true) force = true "
        "match_by_column_name = case_insensitive include_metadata = (file_name = metadata$filename)",
    )
    assert rows(session, "select * from p order by n") == want


def test_naive_times_of_parquet_need_logical_types(session: Connection, landing: Path) -> None:
    landing.mkdir()
    pq.write_table(_PARQUET, landing / "p.parquet")
    run(session, "create file format plain type = parquet")
    [kind] = set(column(session, "select typeof($1:naive) from @landing (file_format => plain)"))
    assert kind == "INTEGER"


def test_a_query_over_staged_files(session: Connection, landing: Path) -> None:
    put(landing, "events/a", b"1\n2\n")
    query = "select t.$1, metadata$file_row_number from @landing/events/a (file_format => 'ff_lines') t order by 2"
    assert rows(session, query) == [("1", 1), ("2", 2)]
    run(session, f"create table made as {query.replace('t.$1', 't.$1 as line').replace('number', 'number as n', 1)}")
    assert column(session, "select line from made order by n") == ["1", "2"]


# Out of tables.


_UNLOAD = """
    copy into @out/batch/items.ndjson.gz from (
        select object_construct('id', id, 'name', name) from t order by id
    ) file_format = (type = json compression = gzip) single = true overwrite = true
"""


def test_unloading_documents(session: Connection) -> None:
    run(session, "create stage out", "create table t (id int, name varchar)")
    run(session, "insert into t values (1, 'é'), (2, null)")
    assert column(session, _UNLOAD) == [2]
    path = Path(value(session, "select build_scoped_file_url(@out, 'batch/' || 'items.ndjson.gz')"))
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert [json.loads(line) for line in lines] == [{"id": 1, "name": "é"}, {"id": 2}]
    assert column(session, "list @out") == ["out/batch/items.ndjson.gz"]
    assert column(session, "remove @out/batch/") == ["out/batch/items.ndjson.gz"]
    assert rows(session, "list @out") == []


def test_unloading_parquet(session: Connection) -> None:
    run(session, "create stage out", "create table t (id int, share double)", "insert into t values (1, 0.1)")
    run(session, "copy into @out/t.parquet from t file_format = (type = parquet) header = true single = true")
    table = pq.read_table(value(session, "select build_scoped_file_url(@out, 't.parquet')"))
    assert table.to_pydict() == {"ID": [1], "SHARE": [0.1]}


def test_unloading_is_careful(session: Connection) -> None:
    run(session, "create stage out", "create table t (v variant)")
    unload = "copy into @out/x.json from t file_format = (type = json compression = none) single = true"
    assert rows(session, unload) == [(0, 0, 0)]
    assert rows(session, "list @out") == []
    run(session, "insert into t select object_construct('a', 1)", unload)
    with pytest.raises(ProgrammingError, match="Files already existing"):
        run(session, unload)
    with pytest.raises(ProgrammingError, match="Max file size"):
        run(session, f"{unload} overwrite = true max_file_size = 3")
    run(session, f"{unload} overwrite = true")
    run(session, "copy into @out/part from t file_format = (type = json)")
    assert column(session, "list @out") == ["out/part_0_0_0.json.gz", "out/x.json"]


# Files from here.


def test_put_and_get(session: Connection, tmp_path: Path) -> None:
    put(tmp_path, "a file.json", b'{"name": "a"}\n')
    put(tmp_path, "b.json.gz", gzip.compress(b'{"name": "b"}\n'))
    run(session, "create stage st", "create temporary table w (name varchar)")
    found = rows(session, f"put 'file://{tmp_path}/*.json*' @st/in")
    assert [(row[0], row[1], row[6]) for row in found] == [
        ("a file.json", "a file.json.gz", "UPLOADED"), ("b.json.gz", "b.json.gz", "UPLOADED")
    ]  # fmt: skip
    assert rows(session, f"put file://{tmp_path}/b.json.gz @st/in")[0][6] == "SKIPPED"
    run(session, f"put 'file://{tmp_path}/a file.json' @%w auto_compress = false overwrite = true")
    run(session, f"put file://{tmp_path}/b.json.gz @%w")
    run(session, "copy into w from (select $1:name::varchar from @%w) file_format = (type = json)")
    assert column(session, "select name from w order by 1") == ["a", "b"]
    run(session, f"get @st/in file://{tmp_path}/out/")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a file.json.gz", "b.json.gz"]
    with pytest.raises(ProgrammingError, match="doesn't exist"):
        run(session, f"put file://{tmp_path}/nothing @st")


def test_a_table_made_anew_has_an_empty_stage(session: Connection, tmp_path: Path) -> None:
    path = put(tmp_path, "a.json", b'{"name": "a"}\n')
    run(session, "create temporary table w (name varchar)", f"put file://{path} @%w")
    run(session, "create or replace temporary table w (name varchar)")
    assert rows(session, "list @%w") == []
    run(session, f"put file://{path} @%w")
    copy = "copy into w from (select $1:name::varchar from @%w) file_format = (type = json)"
    run(session, copy)
    assert column(session, "select name from w") == ["a"]


def test_stages_of_two_sessions_temporary_tables_are_two(session: Connection, connect: Open, tmp_path: Path) -> None:
    path = put(tmp_path, "a.json", b"{}")
    other = connect()
    for one in (session, other):
        run(one, "create temporary table w (name varchar)")
    run(session, f"put file://{path} @%w")
    assert rows(other, "list @%w") == []


# Pipes.


@pytest.fixture
def pipe(session: Connection, landing: Path) -> Path:
    """The landing folder of a pipe into `lines`, on which there is stream `s`."""
    run(
        session,
        "create stream s on table lines append_only = true",
        f"create pipe p auto_ingest = true aws_sns_topic = 'arn' as {_COPY_LINES} on_error = skip_file",
    )
    return landing


def test_what_lands_is_seen_by_who_asks_the_stream(session: Connection, connect: Open, pipe: Path) -> None:
    sensor = connect(warehouse=None)
    assert value(sensor, "select system$stream_has_data('s')") is False
    put(pipe, "events/a", b"1\n")
    assert value(sensor, "select system$stream_has_data('s')") is True
    put(pipe, "events/b", b"2\n")
    assert column(session, "select payload from s") == ["1"]
    assert value(session, "select system$stream_has_data('s')") is True
    assert column(session, "select payload from s order by 1") == ["1", "2"]


def test_nothing_lands_inside_a_transaction(session: Connection, pipe: Path) -> None:
    run(session, "begin")
    put(pipe, "events/a", b"1\n")
    assert value(session, "select system$stream_has_data('s')") is False
    run(session, "commit")
    assert value(session, "select system$stream_has_data('s')") is True


def test_a_pipe_loads_a_name_once(session: Connection, account: StandIn, pipe: Path) -> None:
    put(pipe, "events/a", b"1\n")
    assert account.refresh_pipes() == 1
    put(pipe, "events/a", b"other\n")
    assert account.refresh_pipes() == 0
    assert column(session, "select payload from lines") == ["1"]


def test_pipes_are_not_in_the_log(session: Connection, account: StandIn, pipe: Path) -> None:
    put(pipe, "events/a", b"1\n")
    before = len(account.statements)
    run(session, "select system$stream_has_data('s')")
    assert len(account.statements) == before + 1
    assert not account.statements[-1].is_query


def test_a_file_that_fails_is_recorded_and_skipped(session: Connection, account: StandIn, landing: Path) -> None:
    run(session, "create table needs (id varchar not null, n int)")
    run(
        session,
        "create pipe p as copy into needs from (select $1:id::varchar, $1:n::int from @landing/docs/) "
        "file_format = (type = json)",
    )
    put(landing, "docs/a", b'{"id": "a", "n": 1}\n')
    put(landing, "docs/b", b'{"id": "b", "n": 1}\n{"n": 2}\n')
    put(landing, "docs/c", b'{"id": "c", "n": "x"}\n')
    put(landing, "docs/d", b"no json\n")
    account.refresh_pipes()
    assert column(session, "select id from needs") == ["a"]
    history = rows(
        session,
        "select file_name, status, row_count, row_parsed, error_count, first_error_message is not null, pipe_name "
        "from table(information_schema.copy_history(table_name => 'needs', "
        "start_time => dateadd('hour', -1, current_timestamp()))) order by 1",
    )
    assert history == [
        ("docs/a", "Loaded", 1, 1, 0, False, "P"),
        ("docs/b", "Load failed", 0, 2, 2, True, "P"),
        ("docs/c", "Load failed", 0, 1, 1, True, "P"),
        ("docs/d", "Load failed", 0, 1, 1, True, "P"),
    ]
    assert account.refresh_pipes() == 0


def test_history_from_a_time_on(session: Connection, landing: Path) -> None:
    put(landing, "events/a", b"1\n")
    run(session, _COPY_LINES)
    query = "select count(*) from table(information_schema.copy_history(table_name => 'lines', start_time => {}))"
    assert value(session, query.format("dateadd('minute', -1, current_timestamp())")) == 1
    assert value(session, query.format("dateadd('minute', 1, current_timestamp())")) == 0


def test_a_paused_pipe(session: Connection, account: StandIn, pipe: Path) -> None:
    run(session, "alter pipe p set pipe_execution_paused = true")
    path = put(pipe, "events/a", b"1\n")
    assert account.refresh_pipes() == 0
    status = json.loads(value(session, "select system$pipe_status('p')"))
    assert (status["executionState"], status["pendingFileCount"]) == ("PAUSED", 1)
    assert datetime.fromisoformat(status["oldestFileTimestamp"]).timestamp() == pytest.approx(path.stat().st_mtime)
    run(session, "alter pipe p set pipe_execution_paused = false")
    assert account.refresh_pipes() == 1
    status = json.loads(value(session, "select system$pipe_status('p')"))
    assert (status["executionState"], status["pendingFileCount"]) == ("RUNNING", 0)
    assert datetime.fromisoformat(status["lastIngestedTimestamp"])
    assert "oldestFileTimestamp" not in status


def test_a_pipe_without_its_table_stalls_alone(session: Connection, account: StandIn, pipe: Path) -> None:
    run(session, f"create table other ({_LINES.partition('(')[2]}")
    run(session, f"create pipe q as {_COPY_LINES.replace('into lines', 'into other')}", "drop table lines")
    put(pipe, "events/a", b"1\n")
    assert account.refresh_pipes() == 1
    status = json.loads(value(session, "select system$pipe_status('p')"))
    assert status["executionState"] == "STALLED_COMPILATION_ERROR"
    assert "LINES" in status["error"]


def test_a_pipe_made_anew_forgets_what_it_loaded(session: Connection, account: StandIn, pipe: Path) -> None:
    put(pipe, "events/a", b"1\n")
    account.refresh_pipes()
    run(session, f"create pipe if not exists p as {_COPY_LINES}")
    assert account.refresh_pipes() == 0
    run(session, f"create or replace pipe p as {_COPY_LINES}")
    assert account.refresh_pipes() == 1
    assert value(session, "select count(*) from lines") == 2


def test_show_pipes(session: Connection, pipe: Path, schema: str) -> None:
    cursor = session.cursor().execute(f"show pipes in schema {schema}")
    [row] = cursor.fetchall()
    shown = dict(zip([part.name for part in cursor.description], row, strict=True))
    assert (shown["name"], shown["schema_name"], shown["database_name"]) == ("P", schema, "KURASHIRU")
    assert shown["definition"].startswith("copy into lines")
    run(session, "drop pipe p")
    assert rows(session, "show pipes") == []


@pytest.mark.parametrize("option", ["force = true", "purge = true", "files = ('a')", "on_error = abort_statement"])
def test_options_no_pipe_may_have(session: Connection, landing: Path, option: str) -> None:
    with pytest.raises(ProgrammingError, match="not supported by pipes"):
        run(session, f"create pipe p as {_COPY_LINES} {option}")


def test_a_bucket_is_the_landing_folder(session: Connection, account: StandIn, schema: str) -> None:
    run(session, "create stage bucket url = 's3://bucket/prefix/' storage_integration = si", f"create table {_LINES}")
    run(session, f"create file format ff_lines {_WHOLE_LINES}")
    put(account.landing, f"{schema}/a", b"1\n")
    run(session, _COPY_LINES.replace("@landing/events/", f"@bucket/{schema}/"))
    assert column(session, "select file_name from lines") == [f"prefix/{schema}/a"]
