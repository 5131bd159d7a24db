"""The run launcher of production: a run is a process of its code server, and a lost one is noticed.

Here: asking a code server which runs it still has.
Not here: what happens to a run that is lost (run_monitoring and run_retries in deploy/dagster/dagster.yaml).
"""

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import GetCurrentRunsResult
from dagster._serdes import deserialize_value


class CodeServerRunLauncher(dg.DefaultRunLauncher):
    """Starts runs like Dagster's own launcher; also tells the monitoring daemon when one died with its code server.

    A new process in a container that is already there starts in a few seconds; a container of its own for every
    micro-batch would cost more than the micro-batch. A code server marks a run whose process died as failed. When the
    server itself is killed nobody does, and the sensor would wait for that run until run_monitoring's max_runtime.
    The server that took its place knows nothing of the run, and that is the sign.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the run's code server still has it; a server that does not answer is given time to come back.

        The daemon reads the run again before it believes NOT_FOUND, so a run that ended meanwhile is left alone.
        """
        client: DagsterGrpcClient | None = self._get_grpc_client_for_termination(run.run_id)  # type: ignore[no-untyped-call]
        if client is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "it has ended, or no code server launched it")
        try:
            answer = deserialize_value(client.get_current_runs(), GetCurrentRunsResult)
        except DagsterUserCodeUnreachableError as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"its code server does not answer: {error}")
        if run.run_id in answer.current_runs or answer.serializable_error_info is not None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its code server was restarted and does not know it")
