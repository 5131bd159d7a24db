"""Analytics on Snowflake: training as a stored procedure, promotion as new functions, versions on a stage.

Here: the login of dbt and training, and what each step does through a Snowpark session.
Not here: handlers and their registration (kurashiru_pipeline/snowpark), or the pipeline's own sessions (warehouse/).
Import it only where the engine is Snowflake: dagster_snowflake takes seconds.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from logging import Logger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from dagster_snowflake import SnowflakeResource
from snowflake.snowpark import Session
from snowflake.snowpark.types import (
    DataType,
    DoubleType,
    StringType,
    StructField,
    StructType,
    TimestampTimeZone,
    TimestampType,
)

from kurashiru_pipeline.analytics.warehouse import CANARY_DAYS, CANARY_DAYS_TABLE, AnalyticsWarehouse
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import (
    ARRAYS,
    MANIFEST,
    TWIN,
    InService,
    ModelArtifact,
    load_artifact,
    put_in_service,
)
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.gate import Action, Record
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.snowpark.registration import (
    TRAINING_PROCEDURE,
    register_challenger,
    register_functions,
    register_training,
)
from kurashiru_pipeline.snowpark.training import ARTIFACTS, read_table

PROMOTIONS = "model.promotions"
"""One row a promotion: version, promoted_at (naive UTC). The newest is in service."""
CANARIES = "model.canaries"
"""One row a start (version, share, started_at) or end (nulls) of a canary, and changed_at; the newest counts, unless a
promotion is newer."""
DECISIONS = "model.decisions"
"""One row a core.gate.Record, its figures as JSON."""


def _table(**columns: DataType) -> StructType:
    return StructType([StructField(name.upper(), kind) for name, kind in columns.items()])


_TEXT, _TIME = StringType(), TimestampType(TimestampTimeZone.NTZ)
TABLES = {
    PROMOTIONS: _table(version=_TEXT, promoted_at=_TIME),
    CANARIES: _table(version=_TEXT, share=DoubleType(), started_at=_TIME, changed_at=_TIME),
    DECISIONS: _table(recorded_at=_TIME, action=_TEXT, version=_TEXT, reason=_TEXT, figures=_TEXT),
}


class SnowflakeAnalytics(AnalyticsWarehouse):
    """The account's database. Versions lie on @model.artifacts; those that were looked at, below KURASHIRU_MODELS too,
    where the kernel reads them when it runs in process."""

    @contextmanager
    def writing(self, log: Logger) -> Iterator[None]:
        """Nothing to take: dbt and training run in one Dagster pool, and Snowflake keeps their readers apart."""
        yield

    def train(self, version: str, champion: ModelArtifact | None) -> ModelArtifact | None:
        with self._session() as session:
            register_training(session)
            judged_against = champion.version if champion else ""
            manifest = orjson.loads(str(session.call(TRAINING_PROCEDURE, version, judged_against)))
        return None if manifest is None else self.artifact(version)

    def artifact(self, version: str) -> ModelArtifact:
        folder = self._models / version
        if not folder.exists():
            self._models.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=".draft-", dir=self._models) as draft, self._session() as session:
                for name in (ARRAYS, MANIFEST):
                    session.file.get(f"{ARTIFACTS}/{version}/{name}", f"{draft}/{version}")
                (Path(draft) / version).rename(folder)
        return load_artifact(folder)

    def in_service(self) -> InService:
        with self._session() as session:
            promotion = _newest(session, PROMOTIONS, "promoted_at")
            canary = _newest(session, CANARIES, "changed_at")
        if promotion is None:
            return InService()
        if canary is None or canary["VERSION"] is None or canary["CHANGED_AT"] <= promotion["PROMOTED_AT"]:
            return InService(promotion["VERSION"])
        return InService(promotion["VERSION"], Canary(canary["VERSION"], canary["SHARE"], canary["STARTED_AT"]))

    def put_in_service(self, service: InService) -> None:
        for version in filter(None, (service.version, service.canary.version if service.canary else None)):
            self.artifact(version)  # before anything else: can it be read?
        before = self.in_service()
        is_canary_only = service.version == before.version and service.canary != before.canary
        with self._session() as session:
            if not is_canary_only:
                register_functions(session, service.version)
                _append(session, PROMOTIONS, (service.version, utc_now()))
            if service.canary is not None:
                register_challenger(session, service.canary.version)
                canary = service.canary
                _append(session, CANARIES, (canary.version, canary.share, canary.started_at, utc_now()))
            elif is_canary_only:
                _append(session, CANARIES, (None, None, None, utc_now()))
        put_in_service(self._models, service)

    def history(self) -> list[Record]:
        with self._session() as session:
            rows = session.table(DECISIONS).sort("recorded_at").collect()
        return [
            Record(
                row["RECORDED_AT"], Action(row["ACTION"]), row["VERSION"], row["REASON"], orjson.loads(row["FIGURES"])
            )
            for row in rows
        ]

    def record(self, record: Record) -> None:
        figures = orjson.dumps(record.figures).decode()
        with self._session() as session:
            row = (record.recorded_at, record.action.value, record.version, record.reason, figures)
            _append(session, DECISIONS, row)

    def canary_days(self, canary: Canary) -> pa.Table:
        named = [pa.field("challenger_version", pa.string()), pa.field("canary_started_at", pa.timestamp("us"))]
        with self._session() as session:
            days = read_table(session, CANARY_DAYS_TABLE, pa.schema([*CANARY_DAYS, *named]))
        is_its = (pc.field("challenger_version") == canary.version) & (
            pc.field("canary_started_at") == pa.scalar(canary.started_at, pa.timestamp("us"))
        )
        return days.filter(is_its).select(CANARY_DAYS.names).sort_by([("shown_on", "ascending"), ("arm", "ascending")])

    def saved_versions(self) -> list[str]:
        with self._session() as session:
            files = session.file.list(ARTIFACTS)
        folders = [Path(file.name).parent.name for file in files if Path(file.name).name == MANIFEST]
        return sorted(folder for folder in folders if folder != TWIN)

    def remove_version(self, version: str) -> None:
        with self._session() as session:
            session.file.remove(f"{ARTIFACTS}/{version}/")
        shutil.rmtree(self._models / version, ignore_errors=True)

    def maintain(self, on_wait: Callable[[str], object], on_progress: Callable[[str], object] | None = None) -> None:
        """Snowflake keeps its storage in order by itself."""

    def _session(self) -> AbstractContextManager[Session]:
        session: AbstractContextManager[Session] = snowflake_resource(self.settings()).create_snowpark_session()
        return session

    @property
    def _models(self) -> Path:
        return self.settings().folder("KURASHIRU_MODELS")


def deploy_functions(settings: Settings) -> str | None:
    """Make the kernel's functions with today's code, before the first model as after a deployment of new code.

    Returns:
        The version in service, which they go on with; None: no model yet, lists are popular ones.
    """
    analytics = SnowflakeAnalytics(environment=settings.environment, variables=dict(settings.environ))
    service = analytics.in_service()
    with snowflake_resource(settings).create_snowpark_session() as session:
        register_functions(session, service.version)
        if service.canary is not None:
            register_challenger(session, service.canary.version)
    return service.version


def _newest(session: Session, table: str, since: str) -> Any:
    """The last row of a table that only grows; None without any."""
    rows = session.table(table).sort(since, ascending=False).limit(1).collect()
    return rows[0] if rows else None


def _append(session: Session, table: str, row: tuple[Any, ...]) -> None:
    """Add a row to a table that only grows, its columns in the order of TABLES."""
    session.create_dataframe([row], schema=TABLES[table]).write.save_as_table(table, mode="append", column_order="name")


def snowflake_resource(settings: Settings) -> SnowflakeResource:
    """The login of dbt and training: the service user in the transformer's role, which deploy/snowflake makes.

    Raises:
        ConfigurationError: a setting is missing or wrong.
    """
    database = settings.text("KURASHIRU_SNOWFLAKE_DATABASE")
    tag = {"app": "kurashiru_pipeline", "env": settings.environment, "tool": "training"}
    options: dict[str, Any] = {"session_parameters": {"QUERY_TAG": orjson.dumps(tag).decode()}}
    login: dict[str, str] = {}
    if settings.text("KURASHIRU_SNOWFLAKE_AUTHENTICATOR") == "workload_identity":
        login["authenticator"] = "WORKLOAD_IDENTITY"
        options["workload_identity_provider"] = "AWS"
    else:
        login["private_key_path"] = settings.text("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH")
        passphrase = settings.text("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE")
        if passphrase:
            login["private_key_password"] = passphrase
    return SnowflakeResource(
        account=settings.text("KURASHIRU_SNOWFLAKE_ACCOUNT"),
        user=settings.text("KURASHIRU_SNOWFLAKE_USER"),
        role=f"{database}_TRANSFORMER",
        warehouse=settings.text("KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE"),
        database=database,
        timezone="UTC",
        additional_snowflake_connection_args=options,
        **login,
    )
