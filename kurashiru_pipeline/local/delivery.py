"""Rows of simulated traffic become landed files: rendered and packed in parallel, placed in order, counted.

Here: how a row reads as a line, exports of who and what is new, and the counts in the manifest.
Not here: which rows are delivered when (simulate.py), or how a file is named and placed (landing.py).
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kurashiru_pipeline.core.events import REJECT_REASONS
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.local.catalogue import DEVICES, recipe_rows, user_rows
from kurashiru_pipeline.local.faults import break_line
from kurashiru_pipeline.local.landing import (
    events_key,
    export_key,
    pack_lines,
    pack_table,
    place,
    update_manifest,
)
from kurashiru_pipeline.local.lines import (
    content,
    field,
    hexadecimal,
    join,
    mix,
    pieces,
    text_column,
    time_text,
    uuid_text,
)
from kurashiru_pipeline.local.traffic import DETAILS, NAMES, NO_RECIPE, SECOND, UNKNOWN_NAMES, World

OnProgress = Callable[[int, int | None], None]

VALID, REPEATED, BROKEN = 0, 1, 2  # kinds of rows; BROKEN + index into REJECT_REASONS
_FILES_IN_HAND = 4


class Delivery:
    """One run's way into the landing folder.

    Each file is counted in the manifest as soon as it is in place. Leaving the context waits for what is at work;
    after an error or an interrupt, what has not begun by then is left out.
    """

    def __init__(
        self,
        landing: Path,
        world: World,
        *,
        key: int,
        arguments: dict[str, Any],
        total: int | None,
        on_progress: OnProgress | None,
    ) -> None:
        """Enter the run into the manifest.

        Raises:
            ConfigurationError: the folder cannot be written.
            KurashiruError: this very run is in the manifest already.
        """
        self._landing = landing
        self._world = world
        self._key = key
        self._lines = _Lines(world, key)
        self._total = total
        self._on_progress = on_progress
        self._begun = time.monotonic()
        self._line_count = 0
        self._file_count = 0
        self._packers = ThreadPoolExecutor(2, thread_name_prefix="pack")
        self._placer = ThreadPoolExecutor(1, thread_name_prefix="place")
        self._in_hand: deque[tuple[Future[None], int]] = deque()
        self._last: Future[None] | None = None
        update_manifest(landing, self._enter(arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while kind is None and self._in_hand:
                self._wait()
        finally:
            self._packers.shutdown(wait=True, cancel_futures=True)
            self._placer.shutdown(wait=True, cancel_futures=True)

    def land(self, rows: NDArray[np.void]) -> None:
        """Write rows of traffic.ROW, in their order, as one events file named after the last one's delivery."""
        name = events_key(_moment(int(rows["delivered_at"][-1])), self._identity())
        packed = self._packers.submit(lambda: pack_lines(self._lines.render(rows)))
        self._place(name, packed, {"files": 1, **_counts(rows)}, len(rows))

    def export(self, recipe_count: int, user_count: int, *, exported_at: int) -> None:
        """Export those of the first recipes and users that were not exported before."""
        world = self._world
        numbers = np.flatnonzero(world.unexported_recipes[:recipe_count])
        if len(numbers):
            world.unexported_recipes[numbers] = False
            deleted = world.deleted[numbers] <= exported_at
            published = np.minimum(world.published[numbers], exported_at)
            updated = np.where(deleted, world.deleted[numbers], published)
            table = recipe_rows(world.recipes, numbers, published=published, updated=updated, deleted=deleted)
            self._place_export("recipes", table, exported_at)
        numbers = np.flatnonzero(world.unexported_users[:user_count])
        if len(numbers):
            world.unexported_users[numbers] = False
            registered = np.minimum(world.registered[numbers], exported_at)
            table = user_rows(world.users, numbers, registered=registered)
            self._place_export("users", table, exported_at)

    def _place_export(self, kind: str, table: pa.Table, exported_at: int) -> None:
        name = export_key(kind, _moment(exported_at), self._identity())
        self._place(name, self._packers.submit(pack_table, table), {kind: len(table)}, 0)

    def _place(self, name: str, packed: Future[bytes], counts: dict[str, Any], line_count: int) -> None:
        previous = self._last

        def work() -> None:
            if previous is not None:
                previous.result()  # a repeated line must not arrive where its original failed to
            place(self._landing, name, packed.result())
            update_manifest(self._landing, self._count(counts))

        self._last = self._placer.submit(work)
        self._in_hand.append((self._last, line_count))
        while self._in_hand and (len(self._in_hand) > _FILES_IN_HAND or self._in_hand[0][0].done()):
            self._wait()

    def _wait(self) -> None:
        future, line_count = self._in_hand.popleft()
        future.result()
        self._line_count += line_count
        if self._on_progress is not None and line_count:
            self._on_progress(self._line_count, self._total)

    def _identity(self) -> UUID:
        self._file_count += 1
        number = np.array([self._file_count], dtype=np.uint64)
        return UUID(uuid_text(mix(number, self._key + 2), mix(number, self._key + 3)).tobytes().decode())

    def _enter(self, arguments: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        def change(manifest: dict[str, Any]) -> None:
            if not manifest:
                manifest |= {**_nothing_yet(), "runs": []}
            if any(run["key"] == f"{self._key:016x}" for run in manifest["runs"]):
                message = (
                    f"this run was landed in {self._landing} already (same seed, arguments and end); "
                    "choose another --seed, or empty the folder"
                )
                raise KurashiruError(message)
            run = {"key": f"{self._key:016x}", "seed": arguments["seed"], "until": arguments.get("until")}
            manifest["runs"].append({**run, "args": arguments, "seconds": 0.0, **_nothing_yet()})

        return change

    def _count(self, counts: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        def change(manifest: dict[str, Any]) -> None:
            run = next(run for run in manifest["runs"] if run["key"] == f"{self._key:016x}")
            run["seconds"] = round(time.monotonic() - self._begun, 3)
            for into in (manifest, run):
                _add(into, counts)

        return change


class _Lines:
    """Renders rows as lines; everything that repeats is prepared once."""

    def __init__(self, world: World, key: int) -> None:
        self._key = key
        self._device = world.users.device
        self._names = pa.array([field("event_name", name) for name in NAMES])
        self._users = pa.array([field("user_id", name) for name in world.users.user_ids])
        recipe_ids = (*world.recipes.recipe_ids, None)  # for NO_RECIPE
        self._recipes = pa.array([field("recipe_id", name) for name in recipe_ids])
        self._devices = pa.array(
            [field("platform", name) + field("app_version", version) + '"properties":' for name, version in DEVICES]
        )
        details = [orjson.dumps(detail).decode() for detail in DETAILS]
        self._details = pa.array([*details, *(detail[:-1] + ',"recommendation_id":"' for detail in details)])

    def render(self, rows: NDArray[np.void]) -> bytes:
        ordinal, recipe, is_list = rows["ordinal"], rows["recipe"], rows["shown_list"] > 0
        event_id = uuid_text(mix(ordinal, self._key), mix(ordinal, self._key + 1))
        version = join(pa.array(rows["shown_list"]).cast(pa.string()), '"}')
        lines = join(
            text_column(event_id, b'{"event_id":"', b'",'),
            pieces(self._names, rows["name"]),
            pieces(self._users, rows["user"]),
            text_column(hexadecimal(rows["session"]), b'"session_id":"s', b'",'),
            pieces(self._recipes, np.where(recipe == NO_RECIPE, len(self._recipes) - 1, recipe)),
            text_column(time_text(rows["occurred_at"]), b'"occurred_at":"', b'",'),
            pieces(self._devices, self._device[rows["user"]]),
            pieces(self._details, rows["detail"] + is_list * len(DETAILS)),
            pc.if_else(pa.array(is_list), version, ""),
            "}\n",
        ).cast(pa.binary())
        broken = np.flatnonzero(rows["kind"] >= BROKEN)
        if len(broken):
            good: list[Any] = lines.take(broken).to_pylist()
            reasons = (REJECT_REASONS[kind - BROKEN] for kind in rows["kind"][broken].tolist())
            variants = rows["fault"][broken].tolist()
            bad = [
                break_line(line[:-1], reason, variant) + b"\n"
                for line, reason, variant in zip(good, reasons, variants, strict=True)
            ]
            chosen = np.arange(len(rows))
            chosen[broken] = len(rows) + np.arange(len(broken))
            lines = pa.concat_arrays([lines, pa.array(bad, pa.binary())]).take(chosen)
        return content(lines)


def _nothing_yet() -> dict[str, Any]:
    return {
        "lines": 0,
        "files": 0,
        "valid_events": 0,
        "duplicates": 0,
        "rejected": dict.fromkeys(REJECT_REASONS, 0),
        "rejected_total": 0,
        "unknown_event_names": 0,
        "late": 0,
        "events_by_name": dict.fromkeys(NAMES, 0),
        "users": 0,
        "recipes": 0,
    }


def _counts(rows: NDArray[np.void]) -> dict[str, Any]:
    kinds = np.bincount(rows["kind"], minlength=BROKEN + len(REJECT_REASONS)).tolist()
    valid = rows[rows["kind"] == VALID]
    by_name = dict(zip(NAMES, np.bincount(valid["name"], minlength=len(NAMES)).tolist(), strict=True))
    return {
        "lines": len(rows),
        "valid_events": kinds[VALID],
        "duplicates": kinds[REPEATED],
        "rejected": dict(zip(REJECT_REASONS, kinds[BROKEN:], strict=True)),
        "rejected_total": sum(kinds[BROKEN:]),
        "unknown_event_names": sum(by_name[name] for name in UNKNOWN_NAMES),
        "late": int(valid["is_late"].sum()),
        "events_by_name": by_name,
    }


def _add(into: dict[str, Any], counts: dict[str, Any]) -> None:
    for name, value in counts.items():
        if isinstance(value, dict):
            _add(into[name], value)
        else:
            into[name] += value


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds // SECOND, tz=UTC)
