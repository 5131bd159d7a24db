"""The smallest location that does what ours does: a long-polling sensor on a file, a run, one asset.

Here: the floor of sensor-to-asset time on a machine, for benchmarks/freshness.py.
Not here: anything of the pipeline.
"""

import os
import time
from pathlib import Path

import dagster as dg

TRIGGER = Path(os.environ.get("FLOOR_FOLDER", ".")) / "trigger"
DONE = Path(os.environ.get("FLOOR_FOLDER", ".")) / "done"


@dg.asset
def empty() -> None:
    """Say that the run got here."""
    trigger = TRIGGER.read_text()
    TRIGGER.unlink()
    DONE.write_text(trigger)


floor_job = dg.define_asset_job("floor_job", [empty], executor_def=dg.in_process_executor)


@dg.sensor(job=floor_job, minimum_interval_seconds=1, default_status=dg.DefaultSensorStatus.RUNNING)
def floor_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    deadline = time.monotonic() + 24.0
    while time.monotonic() < deadline:
        if TRIGGER.exists() and not context.instance.get_runs(
            dg.RunsFilter(job_name="floor_job", statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED])
        ):
            return dg.RunRequest()
        time.sleep(0.1)
    return dg.SkipReason("nothing")


defs = dg.Definitions(assets=[empty], jobs=[floor_job], sensors=[floor_sensor])
