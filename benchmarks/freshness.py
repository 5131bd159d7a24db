"""Seconds from a file landing to its users' items readable, with the real sensor and real runs.

Here: one file at a time in turns with an empty Dagster run on the same instance, with a run at hand and without one,
and minutes of steady load. Not here: how a micro-batch spends its time (micro_batch.py), more load than can be taken
(overload.py).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from moto.server import ThreadedMotoServer

from benchmarks.arrival import Arrival, land, make_traffic
from benchmarks.dynamodb_sink import running_sink
from benchmarks.figures import Context, Figure, Outcome, Series, Size, median_and_spread
from benchmarks.live_stack import REALTIME, LiveStack, live_stack, wait_until
from kurashiru_pipeline.catalog import LOAD, Stage
from kurashiru_pipeline.core.quality import weighted_quantile
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse
from kurashiru_pipeline.warehouse.ducklake import attach, connect, lake_folder
from tests.traffic import event, lines, put

TITLE = "freshness: a file landed -> its items readable, idle and under load, beside an empty Dagster run"

_STEPS = [LOAD, *Stage]


@dataclass(frozen=True)
class _Load:
    """Lines a second for so long, delivered to the emulator of AWS (moto) or to the fast sink."""

    rate: int
    seconds: int
    target: str
    goal: str | None = None


@dataclass(frozen=True)
class _Plan:
    """`linger_seconds`: how long a run waits for more, and so what passes before there is none at hand."""

    probes: int
    cold_probes: int
    users: int
    recipes: int
    loads: tuple[_Load, ...]
    linger_seconds: float = 8.0

    @property
    def idle_seconds(self) -> float:
        return 3 * self.probes + (self.linger_seconds + 10) * self.cold_probes

    @property
    def seconds(self) -> float:
        """About how long all of it takes."""
        return 30.0 * len(self.targets) + self.idle_seconds + sum(1.3 * load.seconds + 10 for load in self.loads)

    @property
    def targets(self) -> list[str]:
        """Those delivered to, the one of the idle part first."""
        return list(dict.fromkeys(["sink", *(load.target for load in self.loads)]))


_PLANS = {
    Size.SMALL: _Plan(2, 1, 500, 300, (_Load(200, 5, "sink"),), linger_seconds=2.0),
    Size.MEDIUM: _Plan(
        20,
        6,
        20_000,
        10_000,
        (_Load(500, 60, "sink", "<= 2"), _Load(3_500, 60, "sink", "<= 5"), _Load(500, 60, "moto", "<= 2")),
    ),
    Size.FULL: _Plan(
        30,
        12,
        50_000,
        30_000,
        (
            _Load(500, 180, "sink", "<= 2"),
            _Load(3_500, 180, "sink", "<= 5"),
            _Load(10_500, 180, "sink"),
            _Load(500, 180, "moto", "<= 2"),
            _Load(3_500, 180, "moto"),
        ),
    ),
}


def run(context: Context) -> Outcome:
    plan = _PLANS[context.size]
    figures: list[Figure] = []
    stages: dict[str, list[float]] = {step: [] for step in _STEPS}
    names: list[str] = []
    done = 0.0

    def tell(what: str, seconds: float = 0.0) -> None:
        nonlocal done
        context.progress(min(done / plan.seconds, 1.0), what)
        done += seconds

    for target in plan.targets:
        tell(f"starting Dagster, which delivers to {target}", 30.0)
        with _stack(context.folder / target, target, plan) as stack:
            if not figures:
                figures += _idle(stack, plan, tell, is_measured=context.size is not Size.SMALL)
            for number, load in enumerate(plan.loads):
                if load.target != target:
                    continue
                name = f"{load.rate}_{load.target}"
                tell(f"{load.rate:,} lines a second to {load.target}", 1.3 * load.seconds + 10)
                measured, seconds = _sustained(stack, plan, load, name, seed=11 + number)
                figures += measured
                names.append(name)
                for step in _STEPS:
                    stages[step].append(seconds[step])
    shares = Series(
        "stages", "Seconds of a micro-batch by stage, under load", "lines a second, and target", "s", names, stages
    )
    return Outcome(figures, [shares])


@contextmanager
def _stack(folder: Path, target: str, plan: _Plan) -> Iterator[LiveStack]:
    """The near-real-time location with catalogue and users loaded, delivering to `target`."""
    folder.mkdir(parents=True)
    with (
        _target(target) as endpoint,
        live_stack(folder, endpoint, REALTIME, LINGER_SECONDS=str(plan.linger_seconds)) as stack,
    ):
        first = make_traffic(
            folder / "first", lines=1_000, file_lines=1_000, users=plan.users, recipes=plan.recipes, seed=7
        )
        land(first, [*first.exports, *first.files], stack.settings.landing)
        table = RecommendationTable.from_settings(stack.settings)
        wait_until(lambda: _readable(table, "#default"), "the first micro-batch")
        wait_until(lambda: not _undelivered(stack), "the users of the export", 1_800)
        yield stack


@contextmanager
def _target(name: str) -> Iterator[str]:
    if name == "sink":
        with running_sink(port=0) as endpoint:
            yield endpoint
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


def _idle(stack: LiveStack, plan: _Plan, tell: Callable[[str, float], None], *, is_measured: bool) -> list[Figure]:
    """One file at a time: while a run lingers, and after it has ended; each in turn with the empty run."""
    table = RecommendationTable.from_settings(stack.settings)
    warm, cold, floor = [], [], []
    _probe(stack, table, 0)
    for number in range(1, plan.probes + 1):
        tell(f"a file while a run lingers, {number} of {plan.probes}", 3.0)
        floor.append(stack.round_trip())
        time.sleep(0.5 + number % 3)
        warm.append(_probe(stack, table, number))
    for number in range(plan.cold_probes):
        tell(f"a file with no run at hand, {number + 1} of {plan.cold_probes}", plan.linger_seconds + 10)
        # By then the run has ended; nothing is in step with the sensor's ticks.
        time.sleep(plan.linger_seconds + 4 + number % 5)
        floor.append(stack.round_trip())
        cold.append(_probe(stack, table, 1_000 + number))
    floor_p95 = float(np.quantile(floor, 0.95))

    def ratio(seconds: list[float]) -> float:
        return float(np.quantile(seconds, 0.95)) / floor_p95

    def spread(name: str, seconds: list[float], note: str) -> Figure:
        median, around = median_and_spread(seconds)
        return Figure(name, median, "s", around, note=note)

    return [
        spread("empty_round_trip", floor, "file -> sensor -> empty run, same instance, in turns"),
        spread("freshness_idle", warm, f"files seconds apart: the run lingers ({plan.linger_seconds:.0f} s here)"),
        spread("freshness_cold", cold, "no run at hand: a process start, like the empty run"),
        Figure(
            "freshness_p95_vs_round_trip",
            ratio(warm),
            "ratio",
            goal="<= 1.25" if is_measured else None,
            note="p95 of files seconds apart / p95 of the empty run",
        ),
        Figure(
            "freshness_cold_p95_vs_round_trip",
            ratio(cold),
            "ratio",
            note="the same with no run at hand: start and imports of our process, opening the lake, a micro-batch",
        ),
    ]


def _probe(stack: LiveStack, table: RecommendationTable, number: int) -> float:
    user = f"probe{number}"
    made = [
        event(10_000_000 + number * 100 + place, event_name="recipe_view", user_id=user, recipe_id=f"r000000{place}")
        for place in range(5)
    ]
    put(stack.settings.landing, f"events/2026/01/01/00/probe-{number:05}", lines(made))
    landed = time.monotonic()
    wait_until(lambda: _readable(table, user), f"the item of {user}")
    return time.monotonic() - landed


def _readable(table: RecommendationTable, user: str) -> bool:
    try:
        return table.read(user) is not None
    except (ConfigurationError, TransientError):
        return False  # the first run makes the table


def _sustained(
    stack: LiveStack, plan: _Plan, load: _Load, name: str, *, seed: int
) -> tuple[list[Figure], dict[str, float]]:
    """A file a second at the rate, the first fifth not counted; figures and median seconds by stage."""
    traffic = make_traffic(
        stack.settings.home / "made" / name,
        lines=load.rate * load.seconds,
        file_lines=load.rate,
        users=plan.users,
        recipes=plan.recipes,
        seed=seed,
    )
    before = _newest(stack)
    with Arrival(traffic, traffic.files, stack.settings.landing, seconds=1.0) as arrival:
        arrival.join()
    time.sleep(0.2)
    wait_until(lambda: not _undelivered(stack), f"the backlog of {name}", 10 * load.seconds + 120)
    late, lines_of, seconds = _ledger(stack, before, load.seconds // 5)
    p95 = weighted_quantile(late, lines_of, 0.95)
    p50 = weighted_quantile(late, lines_of, 0.5)
    assert p50 is not None
    assert p95 is not None
    share = seconds[Stage.REFLECT] / sum(seconds.values())
    figures = [
        Figure(f"freshness_p50_at_{name}", p50, "s"),
        Figure(
            f"freshness_p95_at_{name}",
            p95,
            "s",
            (min(late), max(late)),
            load.goal,
            f"{share:.0%} of the stages' time is delivery to the {load.target}; {load.seconds} s of load",
        ),
        Figure(f"reflect_share_at_{name}", share, "share"),
    ]
    return figures, seconds


def _undelivered(stack: LiveStack) -> bool:
    with open_warehouse(stack.settings, read_only=True) as warehouse:
        [queued] = warehouse.fetch("pending_users").to_pylist()
        unfinished = warehouse.fetch("unfinished_batches", last_stage=Stage.REFLECT).num_rows
        is_waiting = bool(any(queued.values()) or unfinished or warehouse.has_landed_files())
    if is_waiting:
        time.sleep(1.0)  # looking costs what is measured
    return is_waiting


def _newest(stack: LiveStack) -> int:
    with open_warehouse(stack.settings, read_only=True) as warehouse:
        return int(warehouse.fetch("last_batch")["batch_id"][0].as_py() or 0)


def _ledger(stack: LiveStack, after: int, warm_up_files: int) -> tuple[list[float], list[int], dict[str, float]]:
    """Landed -> delivered of each file after the first ones, its lines, and median seconds by stage."""
    with connect() as connection:
        attach(connection, lake_folder(stack.settings), "lake", read_only=True)
        files = connection.execute(
            f"""
            select epoch(finished_at - landed_at), line_count
            from lake.ops.batch_files join lake.ops.batch_stages using (batch_id)
            where batch_id > {after} and stage = '{Stage.REFLECT}'
            order by landed_at
            """
        ).fetchall()[warm_up_files:]
        stages = dict(
            connection.execute(
                f"select stage, median(seconds) from lake.ops.batch_stages where batch_id > {after} group by stage"
            ).fetchall()
        )
    seconds, line_counts = zip(*files, strict=True)
    return list(seconds), list(line_counts), {step: float(stages[step]) for step in _STEPS}
