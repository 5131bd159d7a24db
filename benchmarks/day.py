"""A whole day's load, 300 million events, from landed files to staged, recommended and delivered.

Here: the day slice by slice: the simulator lands one, which is not counted, then it is drained and the lake maintained,
which is; what was landed is deleted. So the disk has to hold one slice and the lake. State is kept after every
micro-batch, and an interrupted run goes on from there. Not here: one micro-batch (micro_batch.py), freshness.
"""

import json
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from benchmarks.dynamodb_sink import running_sink, statistics
from benchmarks.figures import Context, Figure, Outcome, Series, Size, median_and_spread
from benchmarks.load import EVENTS_A_DAY, in_another_process, open_pipeline, settings_of, settle, this_hour
from benchmarks.machine import peak_memory_gb
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local.landing import read_manifest
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.drain import Tally, drain
from kurashiru_pipeline.realtime.status import read_status
from kurashiru_pipeline.warehouse import open_warehouse

TITLE = "300 million events from files to staged, recommended and delivered, with maintenance"
RESUMABLE = True

DUPLICATES, MALFORMED, LATE = 0.005, 0.001, 0.001
_LEAST_DAYS = 0.0005
_SETTLED_AT_ONCE = 200_000


@dataclass(frozen=True)
class Scale:
    slices: int
    slice_events: int
    users: int
    recipes: int


SCALES = {
    Size.SMALL: Scale(2, 40_000, 5_000, 5_000),
    Size.MEDIUM: Scale(3, 2_000_000, 300_000, 100_000),
    Size.FULL: Scale(30, 10_000_000, 5_000_000, 100_000),
}


@dataclass
class Slice:
    """One part of the day: seconds by step, counts, and where the lake stands after it."""

    landed: bool = False
    drained: bool = False
    landing_seconds: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    sink_seconds: float = 0.0
    memory_gb: float = 0.0
    lake_gb: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def add(self, tally: Tally) -> None:
        """What a drain did; where an interrupted one left off, the next adds to it."""
        for step, seconds in tally.seconds.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        for name, count in asdict(tally).items():
            if isinstance(count, int):
                self.counts[name] = self.counts.get(name, 0) + count


@dataclass
class State:
    """How far the day is; a file of its folder."""

    path: Path
    began_at: datetime
    is_settled: bool = False
    slices: list[Slice] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, length: timedelta) -> Self:
        """As it was left, or a day of that length that ends with this hour."""
        path = folder / "state.json"
        if not path.exists():
            return cls(path, this_hour() - length)
        kept = json.loads(path.read_bytes())
        slices = [Slice(**part) for part in kept["slices"]]
        return cls(path, datetime.fromisoformat(kept["began_at"]), kept["is_settled"], slices)

    def save(self) -> None:
        kept = {
            "began_at": self.began_at.isoformat(),
            "is_settled": self.is_settled,
            "slices": [asdict(part) for part in self.slices],
        }
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(kept))
        partial.rename(self.path)


def run(context: Context) -> Outcome:
    scale = SCALES[context.size]
    length = timedelta(days=max(scale.slice_events / EVENTS_A_DAY, _LEAST_DAYS))
    state = State.of(context.folder, scale.slices * length)
    with running_sink(keeps_lists=False) as endpoint:
        home = context.folder / "home"
        # Nobody else reads this lake, so that files replaced by larger ones need not wait for readers.
        settings = settings_of(home, endpoint, MAX_BATCH_USERS=_SETTLED_AT_ONCE, REPLACED_FILE_MINUTES=1)
        if not state.is_settled:
            context.progress(0.0, "users register and have their lists")
            shutil.rmtree(settings.home, ignore_errors=True)
            in_another_process(settle, settings, scale.users, scale.recipes, state.began_at)
            shutil.rmtree(settings.landing / "events")
            state.is_settled = True
            state.save()
        elif scale.slices > len(state.slices) or not state.slices[-1].drained:
            context.progress(0.0, "the sink is new: everything is sent again")
            _send_again(settings)
        for number in range(scale.slices):
            if number == len(state.slices):
                state.slices.append(Slice())
            part = state.slices[number]
            if part.drained:
                continue
            if not part.landed:
                context.progress(number / scale.slices, f"slice {number + 1} of {scale.slices}: landing")
                until = state.began_at + (number + 1) * length
                part.landing_seconds = _land(settings, scale, number, length, until)
                part.landed = True
                state.save()
            _drain(settings, state, number, endpoint, _telling(context, scale, number))
    return _outcome(context.size, scale, state, settings)


def _send_again(settings: Settings) -> None:
    """Finish the micro-batch that was in hand, and fill the new sink; neither is counted."""
    with open_pipeline(settings) as pipeline:
        for step in (pipeline.collect, pipeline.preprocess, pipeline.recommend, pipeline.reflect):
            step()


def _land(settings: Settings, scale: Scale, number: int, length: timedelta, until: datetime) -> float:
    """Land a slice, anew if an earlier process was stopped at it; seconds it took."""
    began = time.monotonic()
    shutil.rmtree(settings.landing / "events", ignore_errors=True)
    _forget(settings.landing, number)
    in_another_process(_simulate, settings.landing, scale, number, length, until)
    return time.monotonic() - began


def _simulate(landing: Path, scale: Scale, number: int, length: timedelta, until: datetime) -> None:
    simulate(
        landing,
        events=scale.slice_events,
        users=scale.users,
        recipes=scale.recipes,
        seed=number,
        days=length / timedelta(days=1),
        until=until,
        duplicates=DUPLICATES,
        malformed=MALFORMED,
        late=LATE,
    )


def _forget(landing: Path, seed: int) -> None:
    """Take a run that was stopped out of the manifest, where the simulator would find it done."""
    manifest = read_manifest(landing)
    manifest["runs"] = [run for run in manifest["runs"] if run["seed"] != seed]
    (landing / "manifest.json").write_text(json.dumps(manifest))


def _drain(settings: Settings, state: State, number: int, endpoint: str, tell: Callable[[str, int], None]) -> None:
    kept, sink = state.slices[number], statistics(endpoint).cpu_seconds
    began = time.monotonic()

    def after(tally: Tally) -> Slice:
        part = deepcopy(kept)
        part.add(tally)
        part.sink_seconds += statistics(endpoint).cpu_seconds - sink
        return part

    def on_progress(step: str, tally: Tally) -> None:
        if step == "load":  # a micro-batch is through
            state.slices[number] = after(tally)
            state.save()
        tell(step, state.slices[number].counts.get("line_count", 0))

    with open_pipeline(settings) as pipeline:
        opened = time.monotonic() - began
        tally = drain(pipeline, on_progress)
        tell("maintain", kept.counts.get("line_count", 0) + tally.line_count)
        began = time.monotonic()
        pipeline.warehouse.maintain()
        tally.seconds |= {"open": opened, "maintain": time.monotonic() - began}
    part = state.slices[number] = after(tally)
    part.memory_gb = peak_memory_gb()
    part.lake_gb = _bytes(settings.folder("KURASHIRU_LAKE")) / 1e9
    part.drained = True
    state.save()


def _telling(context: Context, scale: Scale, number: int) -> Callable[[str, int], None]:
    def tell(step: str, line_count: int) -> None:
        done = number * scale.slice_events + line_count
        share = done / (scale.slices * scale.slice_events)
        context.progress(share, f"slice {number + 1} of {scale.slices}: {step}, {done / 1e6:,.1f} million events done")

    return tell


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _outcome(size: Size, scale: Scale, state: State, settings: Settings) -> Outcome:
    is_full_load = size is not Size.SMALL
    slices = state.slices
    events = sum(part.counts["line_count"] for part in slices)
    seconds = sum(part.total for part in slices)
    rates = [part.counts["line_count"] / part.total for part in slices]
    steps = list(dict.fromkeys(step for part in slices for step in part.seconds))
    by_step = {step: sum(part.seconds.get(step, 0.0) for part in slices) for step in steps}
    longest = max(by_step, key=lambda step: by_step[step])
    items = sum(part.counts["item_count"] for part in slices)
    sink_seconds = sum(part.sink_seconds for part in slices)
    per_million = [part.total / part.counts["line_count"] * 1e6 for part in slices]
    third = max(len(slices) // 3, 1)
    early, late = (median_and_spread(some)[0] for some in (per_million[:third], per_million[-third:]))
    lake_gb = slices[-1].lake_gb
    figures = [
        Figure(
            "day_events_per_s",
            events / seconds,
            "events/s",
            (min(rates), max(rates)),
            ">= 55000" if is_full_load else None,
            f"{events:,} events of {scale.users:,} users in {sum(part.counts['batch_count'] for part in slices):,} "
            f"micro-batches; {longest} takes {by_step[longest] / seconds:.0%}; the sink's processor time, on the same "
            f"cores, is {sink_seconds / seconds:.0%} of it",
        ),
        Figure(
            "day_minutes",
            EVENTS_A_DAY / (events / seconds) / 60 if is_full_load else None,
            "min",
            goal="<= 90" if is_full_load else None,
            note="300 million events" if events >= EVENTS_A_DAY else "300 million events at the pace of these",
        ),
        Figure("day_lost_or_doubled", _difference(settings), "lines", goal="<= 0", note="against the manifest"),
        Figure("day_growth_ratio", late / early, "x", note="seconds a million events, last third / first third"),
        Figure("day_items_per_s", items / seconds, "items/s", note=f"{items:,} items delivered"),
        Figure("day_memory_gb", max(part.memory_gb for part in slices), "GB", note="most resident at once"),
        Figure(
            "day_lake_gb",
            lake_gb,
            "GB",
            note=f"raw and staged events and all else: {lake_gb * 1e9 / events:.0f} bytes/event",
        ),
        *(Figure(f"day_{step}_share", taken / seconds, "share") for step, taken in by_step.items()),
    ]
    done = [sum(part.counts["line_count"] for part in slices[: number + 1]) / 1e6 for number in range(len(slices))]
    shares = {
        step: [part.seconds.get(step, 0.0) / part.counts["line_count"] * 1e6 for part in slices] for step in steps
    }
    x_label = "million events of history"
    return Outcome(
        figures,
        [
            Series("pace", "Events a second, end to end", x_label, "events/s", done, {"events/s": rates}),
            Series("steps", "Seconds a million events", x_label, "seconds", done, {**shares, "all": per_million}),
        ],
    )


def _difference(settings: Settings) -> int:
    """Lines staged, repeated or rejected too often or too seldom, by what the simulator knows."""
    runs = read_manifest(settings.landing)["runs"]
    with open_warehouse(settings) as warehouse:
        counts = read_status(warehouse, settings)["counts"]
    truth = {"staged": "valid_events", "duplicates": "duplicates", "rejected": "rejected_total"}
    return sum(abs(counts[ours] - sum(run[theirs] for run in runs)) for ours, theirs in truth.items())
