"""Metrics of micro-batches for an OpenTelemetry collector, when KURASHIRU_TELEMETRY asks for them.

Here: the instruments, and what of a micro-batch each is told.
Not here: what a micro-batch is (drain.py). Nothing of OpenTelemetry is imported while telemetry is off.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from kurashiru_pipeline.core.quality import Freshness
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.realtime.drain import Done

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

Record: TypeAlias = Callable[[Done, Freshness], None]

_EXPORT_MILLISECONDS = 10_000
_FLUSH_MILLISECONDS = 5_000
# From a tenth of a second, as fast as a small micro-batch, to the ten minutes of a run.
_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


@contextmanager
def telemetry(settings: Settings) -> Iterator[Record | None]:
    """Something to tell of each micro-batch, or None where telemetry is off; what it was told is sent by the end.

    Where to, how often and with which headers follows OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, ...).
    A collector that does not answer costs nothing but a warning in the log.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    if settings.text("KURASHIRU_TELEMETRY") == "none":
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = (
            f"KURASHIRU_TELEMETRY=otlp needs the package of {error.name}: pip install 'kurashiru_pipeline[telemetry]'"
        )
        raise ConfigurationError(message) from error
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=_EXPORT_MILLISECONDS)
    resource = Resource.create({"service.name": "kurashiru", "deployment.environment.name": settings.environment})
    provider = MeterProvider(metric_readers=[reader], resource=resource)
    try:
        yield _Instruments(provider.get_meter("kurashiru_pipeline")).record
    finally:
        provider.shutdown(timeout_millis=_FLUSH_MILLISECONDS)


class _Instruments:
    """One of each; their names are in docs/operations.md."""

    def __init__(self, meter: "Meter") -> None:
        self._stage_seconds = meter.create_histogram(
            "kurashiru.stage.duration",
            unit="s",
            description="Seconds of a stage of a micro-batch.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._freshness = meter.create_histogram(
            "kurashiru.freshness",
            unit="s",
            description="Landed file -> item readable, p50 and p95 of each micro-batch's lines.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._lines = meter.create_counter("kurashiru.lines", unit="{line}", description="Lines read, by outcome.")
        self._items = meter.create_counter("kurashiru.items", unit="{item}", description="Items sent, by outcome.")
        self._lag_lines = meter.create_gauge("kurashiru.lag.lines", unit="{line}", description="Landed, not loaded.")
        self._lag_seconds = meter.create_gauge("kurashiru.lag.duration", unit="s", description="Age of the oldest.")
        self._catch_up = meter.create_gauge(
            "kurashiru.lag.catch_up", unit="s", description="Until nothing waits; absent when it would take for ever."
        )

    def record(self, done: Done, fresh: Freshness) -> None:
        for step, seconds in done.seconds.items():
            self._stage_seconds.record(seconds, {"stage": str(step)})
        if done.accounting is not None:
            self._lines.add(done.accounting.staged_count, {"outcome": "staged"})
            self._lines.add(done.accounting.duplicate_count, {"outcome": "duplicate"})
            self._lines.add(done.accounting.rejected_count, {"outcome": "rejected"})
        self._items.add(done.delivery.changed_count, {"outcome": "changed"})
        self._items.add(done.delivery.tombstone_count, {"outcome": "tombstone"})
        self._items.add(len(done.delivery.refused), {"outcome": "refused"})
        for quantile, seconds_late in (("p50", fresh.p50), ("p95", fresh.p95)):
            if seconds_late is not None:
                self._freshness.record(seconds_late, {"quantile": quantile})
        self._lag_seconds.set(done.lag.seconds)
        if done.lag.lines is not None:
            self._lag_lines.set(done.lag.lines)
        if done.lag.catch_up_seconds is not None and math.isfinite(done.lag.catch_up_seconds):
            self._catch_up.set(done.lag.catch_up_seconds)
