"""Metrics reach a collector over OTLP/HTTP, cost nothing while they are off, and say so when they cannot be sent."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from kurashiru_pipeline.core.backlog import Lag, Rates
from kurashiru_pipeline.core.quality import Freshness
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.realtime.drain import Done
from kurashiru_pipeline.realtime.ledger import Delivery
from kurashiru_pipeline.realtime.micro_batch import Accounting
from kurashiru_pipeline.realtime.telemetry import telemetry
from kurashiru_pipeline.warehouse.base import LoadReport

ON = Settings.load(Environment.LOCAL, {"KURASHIRU_TELEMETRY": "otlp"})
DONE = Done(
    loaded=LoadReport.nothing(is_complete=True),
    batch=None,
    accounting=Accounting(1, 100, 90, 7, 3, 0, 5, 0, 0),
    steps={},
    delivery=Delivery(1, changed_count=4, tombstone_count=1, refused=(("u1", "too large"),)),
    seconds={"load": 0.5, "stage": 1.5},
    limit=20_000,
    lag=Lag(1_000, 12.5, 40.0, Rates(10.0, 35.0, 100.0)),
)


class Collector:
    """An OTLP/HTTP collector on loopback that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                import gzip

                body = self.rfile.read(int(self.headers["Content-Length"]))
                body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
                assert self.path == "/v1/metrics"
                collector.requests.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def metrics(self) -> dict[str, Any]:
        """The last of each metric, by name."""
        return {
            metric.name: metric
            for request in self.requests
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    started = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", started.url)
    yield started
    started.close()


def test_a_micro_batch_is_told_to_the_collector(collector: Collector) -> None:
    with telemetry(ON) as record:
        assert record is not None
        record(DONE, Freshness(1.0, 2.0))
        record(DONE, Freshness(None, None))
    metrics = collector.metrics()
    lines = {_of(point): point.as_int for point in metrics["kurashiru.lines"].sum.data_points}
    assert lines == {"staged": 180, "duplicate": 14, "rejected": 6}
    items = {_of(point): point.as_int for point in metrics["kurashiru.items"].sum.data_points}
    assert items == {"changed": 8, "tombstone": 2, "refused": 2}
    stages = {_of(point): point for point in metrics["kurashiru.stage.duration"].histogram.data_points}
    assert {stage: (point.count, point.sum) for stage, point in stages.items()} == {"load": (2, 1.0), "stage": (2, 3.0)}
    assert 0.1 in stages["load"].explicit_bounds
    fresh = {_of(point): point.sum for point in metrics["kurashiru.freshness"].histogram.data_points}
    assert fresh == {"p50": 1.0, "p95": 2.0}
    [lag_seconds] = metrics["kurashiru.lag.duration"].gauge.data_points
    [lag_lines] = metrics["kurashiru.lag.lines"].gauge.data_points
    [catch_up] = metrics["kurashiru.lag.catch_up"].gauge.data_points
    assert (lag_seconds.as_double, lag_lines.as_int, catch_up.as_double) == (12.5, 1_000, 40.0)
    [resource] = {
        attribute.value.string_value
        for attribute in collector.requests[0].resource_metrics[0].resource.attributes
        if attribute.key == "service.name"
    }
    assert resource == "kurashiru"


def _of(point: Any) -> str:
    [attribute] = point.attributes
    return str(attribute.value.string_value)


def test_it_is_off_unless_asked_for_and_then_imports_nothing() -> None:
    code = (
        "import sys\n"
        "from kurashiru_pipeline.environment import Settings\n"
        "from kurashiru_pipeline.realtime.telemetry import telemetry\n"
        "with telemetry(Settings.load(environ={})) as record: print(record)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.split("\n")[:2] == ["None", "[]"]


def test_without_the_extra_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'kurashiru_pipeline\[telemetry\]'"), telemetry(ON):
        pass
