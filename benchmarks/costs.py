"""What production costs a day at 300 million events: the arithmetic behind docs/costs.md.

Here: assumptions, prices, and the tables the page shows; a test holds page and script together. Nothing is measured
here: figures that were measured say where. Change a number and write the page's tables anew:

    python -m benchmarks.costs [--write]
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "costs.md"
BEGIN, END = "<!-- benchmarks/costs.py: begin -->\n", "<!-- benchmarks/costs.py: end -->"
DAY_SECONDS = 86_400
GIB = 2**30
CREDITS_AN_HOUR = {"XSMALL": 1, "SMALL": 2, "MEDIUM": 4, "LARGE": 8}


@dataclass(frozen=True)
class Traffic:
    """What comes in. A touch is one user in one micro-batch: a profile, a list and, if it changed, an item.

    A session that lasts `session_seconds` falls into session_seconds / interval + 1 micro-batches on average.
    """

    events_a_day: int = 300_000_000
    bytes_an_event: int = 1_000
    compression: float = 8.0
    users_a_day: int = 3_000_000
    sessions_a_user: float = 5.0
    session_seconds: float = 360.0
    changed_share: float = 1.0
    peak: float = 3.0

    def touches_a_day(self, interval: float) -> float:
        return self.users_a_day * self.sessions_a_user * (self.session_seconds / interval + 1)


@dataclass(frozen=True)
class Design:
    """What is set up, and how fast it is taken to be.

    `queries` and `metadata_statements` (of a micro-batch: with a warehouse and without) and `statements_a_look` (of the
    sensor) are counted by benchmarks.warehouse_statements from the code as it runs.
    """

    interval_seconds: float = 60.0
    poll_seconds: float = 10.0
    queries: int = 75
    metadata_statements: int = 38
    statements_a_look: int = 3
    seconds_a_query: float = 0.4
    events_a_second: float = 80_000.0
    writes_a_second: float = 4_000.0
    pipeline_size: str = "XSMALL"
    analytics_size: str = "SMALL"
    analytics_minutes_an_hour: float = 10.0
    auto_suspend_seconds: float = 60.0
    rows_a_call: int = 500
    function_gib: float = 0.5
    writes_a_second_a_call: float = 300.0
    events_a_record: int = 1
    landing_days: int = 400
    table_days: int = 90
    table_compression: float = 6.0
    table_copies: int = 2
    is_everything_sent: bool = False


@dataclass(frozen=True)
class Prices:
    """Dollars, on demand, us-east-1; Snowflake Standard edition. Tokyo is dearer: put your own in."""

    credit: float = 2.00
    snowpipe_credits_a_gb: float = 0.0037
    snowflake_tb_month: float = 23.0
    firehose_gib: float = 0.029
    firehose_rounding_bytes: int = 5 * 1024
    s3_gib_month: float = 0.023
    million_write_units: float = 0.625
    million_api_calls: float = 3.50
    million_function_calls: float = 0.20
    function_gib_second: float = 0.0000166667
    free_cloud_services_share: float = 0.10


@dataclass(frozen=True)
class Costs:
    """A day, item by item."""

    traffic: Traffic = field(default_factory=Traffic)
    design: Design = field(default_factory=Design)
    prices: Prices = field(default_factory=Prices)

    # Micro-batches

    @property
    def micro_batches(self) -> float:
        return DAY_SECONDS / self.design.interval_seconds

    @property
    def writes(self) -> float:
        """Items written a day; each is at most 1 KB, one write unit."""
        if self.design.is_everything_sent:
            return self.traffic.users_a_day * self.micro_batches
        return self.traffic.touches_a_day(self.design.interval_seconds) * self.traffic.changed_share

    def busy_seconds(self, load: float = 1.0) -> float:
        """How long a micro-batch keeps the warehouse, at `load` times the average traffic."""
        events = self.traffic.events_a_day / self.micro_batches * load
        return (
            self.design.queries * self.design.seconds_a_query
            + events / self.design.events_a_second / CREDITS_AN_HOUR[self.design.pipeline_size]
            + self.writes / self.micro_batches * load / self.design.writes_a_second
        )

    @property
    def warehouse_hours(self) -> float:
        """A warehouse is billed by the second, at least a minute each time it resumes, until it suspends itself."""
        running = max(60.0, self.busy_seconds() + self.design.auto_suspend_seconds)
        return self.micro_batches * min(self.design.interval_seconds, running) / 3600

    # Credits

    @property
    def pipeline_credits(self) -> float:
        return self.warehouse_hours * CREDITS_AN_HOUR[self.design.pipeline_size]

    @property
    def analytics_credits(self) -> float:
        minutes = self.design.analytics_minutes_an_hour + self.design.auto_suspend_seconds / 60
        return 24 * minutes / 60 * CREDITS_AN_HOUR[self.design.analytics_size]

    @property
    def gigabytes(self) -> float:
        return self.traffic.events_a_day * self.traffic.bytes_an_event / 1e9

    @property
    def snowpipe_credits(self) -> float:
        return self.gigabytes * self.prices.snowpipe_credits_a_gb

    @property
    def credits(self) -> float:
        return self.pipeline_credits + self.analytics_credits + self.snowpipe_credits

    @property
    def statements(self) -> float:
        """Statements a day that cloud services have to deal with."""
        looks = DAY_SECONDS / self.design.poll_seconds
        a_batch = self.design.queries + self.design.metadata_statements
        return looks * self.design.statements_a_look + self.micro_batches * a_batch

    @property
    def free_credits_a_statement(self) -> float:
        """What a statement may cost in cloud services before any of it is billed."""
        free = (self.pipeline_credits + self.analytics_credits) * self.prices.free_cloud_services_share
        return free / self.statements

    # Dollars

    @property
    def firehose(self) -> float:
        packed = self.traffic.bytes_an_event * self.design.events_a_record
        billed = -(-packed // self.prices.firehose_rounding_bytes) * self.prices.firehose_rounding_bytes
        return self.traffic.events_a_day / self.design.events_a_record * billed / GIB * self.prices.firehose_gib

    @property
    def landing(self) -> float:
        kept = self.traffic.events_a_day * self.traffic.bytes_an_event / self.traffic.compression / GIB
        return kept * self.design.landing_days * self.prices.s3_gib_month / 30

    @property
    def tables(self) -> float:
        kept = self.gigabytes / 1000 / self.design.table_compression * self.design.table_copies * self.design.table_days
        return kept * self.prices.snowflake_tb_month / 30

    @property
    def delivery(self) -> float:
        calls = self.writes / self.design.rows_a_call
        gib_seconds = self.writes / self.design.writes_a_second_a_call * self.design.function_gib
        return (
            calls * (self.prices.million_api_calls + self.prices.million_function_calls) / 1e6
            + gib_seconds * self.prices.function_gib_second
        )

    @property
    def dynamodb(self) -> float:
        return self.writes * self.prices.million_write_units / 1e6

    @property
    def dollars(self) -> float:
        parts = (self.firehose, self.landing, self.tables, self.delivery, self.dynamodb)
        return self.credits * self.prices.credit + sum(parts)


def tables(costs: Costs) -> str:
    """The page's tables, in Markdown."""
    price = costs.prices.credit
    items: list[tuple[str, str, float]] = [
        ("warehouse of the micro-batches", f"{costs.pipeline_credits:.1f}", costs.pipeline_credits * price),
        ("warehouse of dbt and training", f"{costs.analytics_credits:.1f}", costs.analytics_credits * price),
        ("Snowpipe", f"{costs.snowpipe_credits:.1f}", costs.snowpipe_credits * price),
        ("Snowflake storage", "", costs.tables),
        ("Firehose", "", costs.firehose),
        ("S3 storage", "", costs.landing),
        ("API Gateway and Lambda", "", costs.delivery),
        ("DynamoDB writes", "", costs.dynamodb),
        ("**all**", f"**{costs.credits:.1f}**", costs.dollars),
    ]
    day = _table(("a day", "credits", "dollars"), [(name, credits_, f"{paid:,.1f}") for name, credits_, paid in items])

    def changed(**design: object) -> Costs:
        return replace(costs, design=replace(costs.design, **design))  # type: ignore[arg-type]

    intervals = [changed(interval_seconds=seconds) for seconds in (60.0, 120.0, 300.0, 900.0)]
    by_interval = _table(
        ("micro-batch every", "busy: average / peak", "warehouse on", "credits", "items written", "dollars a day"),
        [
            (
                f"{choice.design.interval_seconds:.0f} s",
                f"{choice.busy_seconds():.0f} s / {choice.busy_seconds(choice.traffic.peak):.0f} s",
                f"{choice.warehouse_hours:.1f} h",
                f"{choice.credits:.1f}",
                f"{choice.writes / 1e6:,.0f} M",
                f"{choice.dollars:,.0f}",
            )
            for choice in intervals
        ],
    )
    levers: Sequence[tuple[str, Costs]] = (
        ("as above", costs),
        ("five events in a Firehose record", changed(events_a_record=5)),
        ("a micro-batch every five minutes", changed(interval_seconds=300.0)),
        ("both", changed(events_a_record=5, interval_seconds=300.0)),
        ("the pipeline's warehouse SMALL", changed(pipeline_size="SMALL")),
        ("every five minutes, and suspended at once", changed(interval_seconds=300.0, auto_suspend_seconds=0.0)),
        ("landed files kept 90 days", changed(landing_days=90)),
        ("no diff: every user of the day sent each time", changed(is_everything_sent=True)),
    )
    by_lever = _table(
        ("change one thing", "dollars a day", "difference"),
        [(name, f"{choice.dollars:,.0f}", f"{choice.dollars - costs.dollars:+,.0f}") for name, choice in levers],
    )
    design = costs.design
    statements = _table(
        ("counted", "statements", "on a warehouse", "wake-ups"),
        [
            ("a micro-batch", str(design.queries + design.metadata_statements), str(design.queries), "1"),
            ("an idle hour of the sensor", f"{3600 / design.poll_seconds * design.statements_a_look:.0f}", "0", "0"),
        ],
    )
    free = (
        f"That is {costs.statements:,.0f} statements a day; they stay free as long as one takes less than "
        f"{costs.free_credits_a_statement:.6f} credits of cloud services.\n"
    )
    return "\n".join([day, by_interval, by_lever, statements, free])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page_with(text: str, content: str) -> str:
    """The page with `content` between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        message = f"{PAGE} lacks the lines {BEGIN.strip()} and {END}"
        raise ValueError(message)
    return f"{before}{BEGIN}{content}{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="Write the tables into docs/costs.md.")
    content = tables(Costs())
    if parser.parse_args().write:
        PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), content), encoding="utf-8")
    print(content)


if __name__ == "__main__":
    main()
