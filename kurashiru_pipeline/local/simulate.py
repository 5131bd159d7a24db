"""Simulated traffic: at-least-once, out of order, with broken lines, and the truth about it in manifest.json.

Here: which lines are delivered when and in which file, and who and what there is in a landing folder.
Not here: what users do (traffic.py), how lines are broken (faults.py), rendered, placed and counted (delivery.py).
"""

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kurashiru_pipeline.core.events import REJECT_REASONS
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local.catalogue import make_recipes, make_users
from kurashiru_pipeline.local.delivery import BROKEN, REPEATED, Delivery, OnProgress
from kurashiru_pipeline.local.landing import read_manifest
from kurashiru_pipeline.local.traffic import DAY, HOUR, ROW, SECOND, Integers, Traffic, World

NEVER = 2**62  # later than any time in microseconds
_SLICE_EVENTS = 1_000_000
_LIVE_BLOCK_EVENTS = 50_000
_LIVE_PACE = 0.05  # an hour of cooking passes in three minutes, so that a short run shows whole sessions
_LIVE_PAST_DAYS = 3.0
_NEW_SHARE = 0.02
_NEW_RECIPE_SECONDS, _MAX_NEW_RECIPES = 20, 1_000
_NEW_USER_SECONDS, _MAX_NEW_USERS = 4, 5_000
_OLDEST_DAYS = 1_000
_LEAST_DAYS = 0.0005  # 43 s; in a shorter time no session gets beyond its first list
_DELETED_EVERY = 97
_MAX_DELAY = 6 * HOUR
_TOO_LONG = REJECT_REASONS.index("line_too_long")
_TOO_LONG_AT = (12, 1012)  # a line too long is a megabyte: two in a run are enough
_SHORT_REASONS = np.array([code for code in range(len(REJECT_REASONS)) if code != _TOO_LONG])


def simulate(
    landing: Path,
    *,
    events: int | None = None,
    rate: float | None = None,
    minutes: float | None = None,
    users: int = 2_000,
    recipes: int = 1_000,
    seed: int = 1,
    duplicates: float = 0.0,
    malformed: float = 0.0,
    late: float = 0.0,
    until: datetime | None = None,
    days: float = 3.0,
    file_lines: int = 10_000,
    file_seconds: float = 2.0,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Write traffic into a landing folder, all at once (`events`) or live (`rate`), and the exports it refers to.

    The same arguments in an empty folder give the same files, byte for byte (live: the same but for the clock).
    A folder keeps the recipes and users of earlier runs; those it lacks are added.

    Args:
        landing: the landing folder; made when missing.
        events: lines to write, repeated and broken ones included, over the `days` before `until`.
        rate: lines a second, in a file every `file_seconds`, stamped with the clock.
        minutes: how long to go on with `rate`; None: until interrupted, which leaves whole files and a true manifest.
        users: how many users there are at least; live runs add some.
        recipes: how many recipes there are at least; live runs add some.
        seed: of everything random in the traffic.
        duplicates: share of the lines that repeat an earlier valid line, in the same file or a later one.
        malformed: share of the lines that are rejected, spread over the reasons of the contract.
        late: share of the lines whose event is up to six hours older than its neighbours in the file.
        until: end of the traffic (without zone: UTC); None: the beginning of this hour. Only with `events`.
        days: length of the traffic, 43 seconds to 30 days. Only with `events`.
        file_lines: lines in a file. Only with `events`.
        file_seconds: seconds between files. Only with `rate`.
        on_progress: called with lines written and lines to write (None when there is no end).

    Returns:
        The manifest of the landing folder: counts over all runs, and of each run.

    Raises:
        ConfigurationError: an argument is out of range, or the folder cannot be written.
        KurashiruError: this very run has been landed before.
    """
    now = datetime.now(UTC)
    arguments: dict[str, Any] = {
        "users": _within("--users", users, 1, 10_000_000),
        "recipes": _within("--recipes", recipes, 1, 1_000_000),
        "seed": _within("--seed", seed, 0, 2**63 - 1),
        "duplicates": _within("--duplicates", duplicates, 0, 0.9),
        "malformed": _within("--malformed", malformed, 0, 0.9),
        "late": _within("--late", late, 0, 0.9),
    }
    if duplicates + malformed + late > 0.9:
        raise ConfigurationError("--duplicates, --malformed and --late together must be at most 0.9 of the lines")
    if (events is None) == (rate is None):
        raise ConfigurationError("give either --events (all at once) or --rate (live)")
    total: int | None
    if rate is None:
        if minutes is not None:
            raise ConfigurationError("--minutes goes with --rate, not with --events")
        end = now.replace(minute=0, second=0, microsecond=0) if until is None else _utc(until)
        total = int(_within("--events", events, 1, 1_000_000_000))
        arguments |= {
            "events": total,
            "days": _within("--days", days, _LEAST_DAYS, 30),
            "until": end,
            "file_lines": _within("--file-lines", file_lines, 1, 1_000_000),
        }
    else:
        if until is not None:
            raise ConfigurationError("--until goes with --events; --rate is stamped with the clock")
        end = now
        arguments |= {
            "rate": _within("--rate", rate, 0.01, 1_000_000),
            "minutes": None if minutes is None else _within("--minutes", minutes, 0.01, 1_000_000),
            "file_seconds": _within("--file-seconds", file_seconds, 0.1, 900),
            "started_at": now,
        }
        total = None if minutes is None else round(rate * minutes * 60)

    ended_at = _microseconds(end)
    began_at = ended_at - round((days if rate is None else _LIVE_PAST_DAYS) * DAY)
    world, settled = _world(landing, recipes, users, began_at, ended_at, is_live=rate is not None)
    key = _key(arguments)
    traffic = Traffic(world, seed=seed, key=key)
    faults = _Faults(seed, duplicates, malformed, late)
    with Delivery(landing, world, key=key, arguments=arguments, total=total, on_progress=on_progress) as delivery:
        delivery.export(*settled, exported_at=ended_at)
        if rate is None:
            lines = arguments["events"]
            for rows in _history(traffic, faults, lines, began_at, ended_at, file_lines=file_lines):
                delivery.land(rows)
        else:
            for rows in _live(traffic, faults, world, rate=rate, minutes=minutes, file_seconds=file_seconds):
                newest = int(rows["recipe"].max()) + 1, int(rows["user"].max()) + 1
                delivery.export(*newest, exported_at=int(rows["delivered_at"][0]))
                delivery.land(rows)
    return read_manifest(landing)


class _Share:
    """A share of a growing number of lines; rounded down, so that the first line is never part of it."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._line_count = self._taken = 0

    def take(self, lines: int, *, at_most: int) -> int:
        """How many of the next lines; what was too many for them is made up for later."""
        self._line_count += lines
        count = min(int(self._line_count * self._share + 1e-6) - self._taken, at_most)
        self._taken += count
        return count


class _Faults:
    """How many lines are late, repeated or broken, and which."""

    def __init__(self, seed: int, duplicates: float, malformed: float, late: float) -> None:
        self._late, self._repeated, self._faulty = _Share(late), _Share(duplicates), _Share(duplicates + malformed)
        self._rng = np.random.default_rng([seed, 1])
        self._event_count = self._fault_count = 0

    def split(self, lines: int) -> tuple[int, int, int, int]:
        """How many of the next lines are valid, and of these late, repeated and broken; adds up over the run."""
        faulty = self._faulty.take(lines, at_most=lines)
        repeated = self._repeated.take(lines, at_most=faulty)
        valid = lines - faulty
        return valid, self._late.take(lines, at_most=valid), repeated, faulty - repeated

    def number(self, rows: NDArray[np.void]) -> None:
        """Give each row an event of its own."""
        rows["ordinal"] = self._event_count + np.arange(len(rows))
        self._event_count += len(rows)

    def choose_late(self, candidates: Integers, count: int, longest: int) -> tuple[Integers, Integers]:
        """Which rows are late (all candidates if they are fewer than `count`), and by how many microseconds."""
        chosen = self._rng.permutation(candidates)[:count]
        return chosen, self._rng.integers(longest // 6, longest, len(chosen))

    def jitter(self, count: int, longest: int) -> Integers:
        """Microseconds that deliveries take."""
        return self._rng.integers(0, longest, count)

    def made_of(self, rows: NDArray[np.void], repeated: int, broken: int, gaps: tuple[int, int]) -> NDArray[np.void]:
        """Copies of some of `rows`: first repeated ones, then broken ones, each delivered after its original.

        Half of them come within the first of `gaps`, half within the second (microseconds).
        """
        copies = rows[self._rng.integers(0, len(rows), repeated + broken)]
        longest = np.where(self._rng.random(len(copies)) < 0.5, *gaps)
        copies["delivered_at"] += (self._rng.random(len(copies)) * longest).astype(np.int64) + 1
        copies["is_late"] = False
        copies["kind"] = REPEATED
        bad = copies[repeated:]
        self.number(bad)
        bad["fault"] = self._fault_count + np.arange(broken)
        self._fault_count += broken
        bad["kind"] = BROKEN + np.where(
            np.isin(bad["fault"], _TOO_LONG_AT), _TOO_LONG, _SHORT_REASONS[bad["fault"] % len(_SHORT_REASONS)]
        )
        bad["fault"] //= len(_SHORT_REASONS)
        return copies


def _history(
    traffic: Traffic, faults: _Faults, events: int, begin: int, end: int, *, file_lines: int
) -> Iterator[NDArray[np.void]]:
    """Files of traffic between two times, in the order of delivery, a slice of time after the other."""
    slices = -(-events // _SLICE_EVENTS)
    longest_delay = min(_MAX_DELAY, (end - begin) // 4)
    rest = np.zeros(0, dtype=ROW)
    for number in range(slices):
        low, high = (begin + (end - begin) * edge // slices for edge in (number, number + 1))
        valid, late, repeated, broken = faults.split(events * (number + 1) // slices - events * number // slices)
        rows = traffic.events(valid, low, high, before=end)
        faults.number(rows)
        rows["delivered_at"] = rows["occurred_at"] + faults.jitter(len(rows), 5 * SECOND)
        early_enough = np.flatnonzero(rows["occurred_at"] < end - longest_delay)
        chosen, delay = faults.choose_late(early_enough, late, longest_delay)
        rows["delivered_at"][chosen] = rows["occurred_at"][chosen] + delay
        rows["is_late"][chosen] = True
        copies = faults.made_of(rows, repeated, broken, (10 * SECOND, HOUR // 2))
        rows = np.concatenate((rest, rows, copies))
        rows["delivered_at"] = np.minimum(rows["delivered_at"], end - 1)
        rows = rows[np.argsort(rows["delivered_at"], kind="stable")]
        complete = len(rows)
        if number < slices - 1:
            complete = int(np.searchsorted(rows["delivered_at"], high)) // file_lines * file_lines
        for start in range(0, complete, file_lines):
            yield rows[start : min(start + file_lines, complete)]
        rest = rows[complete:]


def _live(
    traffic: Traffic, faults: _Faults, world: World, *, rate: float, minutes: float | None, file_seconds: float
) -> Iterator[NDArray[np.void]]:
    """A file every `file_seconds`, as the clock reaches it; the traffic sets the order, the clock the times."""
    window = round(file_seconds * SECOND)
    block = min(max(_LIVE_BLOCK_EVENTS / rate, 10.0), 600.0)
    block_events, block_length = max(1, round(block * rate)), round(block * SECOND)
    traffic_at = _microseconds(datetime.now(UTC))
    pending = recent = np.zeros(0, dtype=ROW)
    began, written, seconds = time.monotonic(), 0, 0.0
    while minutes is None or seconds < minutes * 60:
        seconds += file_seconds
        if minutes is not None:
            seconds = min(seconds, minutes * 60)
        lines = round(rate * seconds) - written
        written += lines
        valid, late, repeated, broken = faults.split(lines)
        while len(pending) < valid:
            new = traffic.events(block_events, traffic_at, traffic_at + block_length, before=NEVER, pace=_LIVE_PACE)
            traffic_at += block_length
            pending = np.concatenate((pending, new))
            pending = pending[np.argsort(pending["occurred_at"], kind="stable")]
        ahead = began + seconds - time.monotonic()
        time.sleep(max(ahead, 0.0))
        began += max(-ahead - file_seconds, 0.0)  # after a pause of the machine, go on from here
        if not lines:
            continue
        now = _microseconds(datetime.now(UTC))
        rows, pending = pending[:valid].copy(), pending[valid:]
        faults.number(rows)
        rows["delivered_at"] = now - window + (np.arange(valid) + 1) * window // max(valid, 1)
        rows["occurred_at"] = rows["delivered_at"]
        newer = np.maximum(world.published[rows["recipe"]], world.registered[rows["user"]])
        chosen, delay = faults.choose_late(np.flatnonzero(newer <= world.began_at), late, _MAX_DELAY)
        rows["occurred_at"][chosen] -= delay
        rows["is_late"][chosen] = True
        copies = faults.made_of(np.concatenate((recent, rows)), repeated, broken, (window, window))
        recent = rows if valid else recent
        rows = np.concatenate((rows, copies))
        rows["delivered_at"] = np.clip(rows["delivered_at"], now - window, now)
        yield rows[np.argsort(rows["delivered_at"], kind="stable")]


def _world(
    landing: Path, recipes: int, users: int, began_at: int, ended_at: int, *, is_live: bool
) -> tuple[World, tuple[int, int]]:
    """Who and what there is, as the folder has it already or as it comes about in this run.

    Returns:
        The world, and how many recipes and users there are at the end of its past; in a live run, more follow.
    """
    manifest = read_manifest(landing)
    known = manifest.get("recipes", 0), manifest.get("users", 0)
    settled = max(recipes, known[0]), max(users, known[1])
    catalogue = make_recipes(settled[0] + is_live * _MAX_NEW_RECIPES)
    people = make_users(settled[1] + is_live * _MAX_NEW_USERS)
    published = _appearances(catalogue.age, known[0], settled[0], (began_at, ended_at), _NEW_RECIPE_SECONDS)
    registered = _appearances(people.age, known[1], settled[1], (began_at, ended_at), _NEW_USER_SECONDS)
    deletions = began_at + (catalogue.age * (ended_at - began_at)).astype(np.int64)
    is_deleted = (published <= began_at) & (np.arange(len(catalogue)) % _DELETED_EVERY == _DELETED_EVERY // 2)
    deleted = np.where(is_deleted, deletions, NEVER)

    there, exported = _exported(landing, "recipes", "recipe_id", catalogue.recipe_ids)
    published[there] = exported["published_at"]
    deleted[there] = np.where(exported["is_deleted"], exported["updated_at"], NEVER)
    new_recipes = np.ones(len(catalogue), dtype=bool)
    new_recipes[there] = False
    there, exported = _exported(landing, "users", "user_id", people.user_ids)
    registered[there] = exported["registered_at"]
    new_users = np.ones(len(people), dtype=bool)
    new_users[there] = False
    return World(catalogue, people, began_at, published, deleted, registered, new_recipes, new_users), settled


def _appearances(
    age: NDArray[np.float64], known: int, settled: int, period: tuple[int, int], seconds_between: int
) -> Integers:
    """Since when each recipe or user is there: long ago, evenly within the period, or one by one after it."""
    began_at, ended_at = period
    since = began_at - HOUR - (age**2 * _OLDEST_DAYS * DAY).astype(np.int64)
    first_new = known or max(1, round(settled * (1 - _NEW_SHARE)))
    new = np.arange(settled - first_new)
    since[first_new:settled] = began_at + (new + 1) * ((ended_at - began_at) // (len(new) + 1))
    since[settled:] = ended_at + (np.arange(len(age) - settled) + 1) * seconds_between * SECOND
    return since


def _exported(
    landing: Path, kind: str, id_column: str, ids: tuple[str, ...]
) -> tuple[Integers, dict[str, NDArray[np.generic]]]:
    """What earlier exports in the folder say of `ids`: positions, and the other columns (times in microseconds).

    Of a position that occurs more than once, the last row is the newest.
    """
    since = {"recipes": "published_at", "users": "registered_at"}[kind]
    names = [id_column, since, "updated_at", "is_deleted"]
    tables = []
    for path in sorted((landing / kind).glob(f"{kind}-*.parquet")):
        try:
            tables.append(pq.read_table(path, columns=names))
        except (OSError, pa.ArrowException) as error:
            message = f"{path} cannot be read as an export ({error}); remove it, or empty {landing}"
            raise KurashiruError(message) from error
    if not tables:
        return np.zeros(0, dtype=np.int64), dict.fromkeys(names[1:], np.zeros(0, dtype=np.int64))
    table = pa.concat_tables(tables).sort_by("updated_at")
    position = pc.index_in(table[id_column], value_set=pa.array(ids))
    table = table.filter(pc.is_valid(position))
    columns = {name: table[name].cast(pa.int64()).to_numpy() for name in names[1:]}
    return position.drop_null().to_numpy().astype(np.int64), columns


def _key(arguments: dict[str, Any]) -> int:
    """64 bits that tell this run from all others; event ids and file names come from it."""
    text = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def _within(option: str, value: float | None, low: float, high: float) -> float | int:
    if value is None or not low <= value <= high:
        raise ConfigurationError(f"{option} is {value}; it must be between {low:,} and {high:,}")
    return value


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * SECOND)
