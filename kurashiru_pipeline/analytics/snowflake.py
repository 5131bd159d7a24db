"""Analytics on Snowflake: training as a stored procedure, promotion as new functions, versions on a stage.

Here: the login of dbt and training, and what each step does through a Snowpark session.
Not here: handlers and their registration (kurashiru_pipeline/snowpark), or the pipeline's own sessions (warehouse/).
Import it only where the engine is Snowflake: dagster_snowflake takes seconds.
"""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from logging import Logger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
from dagster_snowflake import SnowflakeResource
from snowflake.snowpark import Session

from kurashiru_pipeline.analytics.warehouse import AnalyticsWarehouse
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import ARRAYS, MANIFEST, ModelArtifact, load_artifact, promote
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.snowpark.registration import TRAINING_PROCEDURE, register_functions, register_training
from kurashiru_pipeline.snowpark.training import ARTIFACTS

PROMOTIONS = "model.promotions"
"""One row a promotion: version, promoted_at (naive UTC). The newest is in service."""


class SnowflakeAnalytics(AnalyticsWarehouse):
    """The account's database. Versions lie on @model.artifacts; those that were looked at, below KURASHIRU_MODELS too,
    where the kernel reads them when it runs in process."""

    @contextmanager
    def writing(self, log: Logger) -> Iterator[None]:
        """Nothing to take: dbt and training run in one Dagster pool, and Snowflake keeps their readers apart."""
        yield

    def train(self, version: str) -> ModelArtifact | None:
        with self._session() as session:
            register_training(session)
            manifest = orjson.loads(str(session.call(TRAINING_PROCEDURE, version)))
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

    def promoted_version(self) -> str | None:
        with self._session() as session:
            newest = session.table(PROMOTIONS).sort("promoted_at", ascending=False).limit(1).collect()
        return str(newest[0]["VERSION"]) if newest else None

    def promote(self, version: str) -> None:
        self.artifact(version)  # before anything else: can it be read?
        with self._session() as session:
            register_functions(session, version)
            row = session.create_dataframe([(version, utc_now())], schema=["version", "promoted_at"])
            row.write.save_as_table(PROMOTIONS, mode="append", column_order="name")
        promote(self._models, version)

    def saved_versions(self) -> list[str]:
        with self._session() as session:
            files = session.file.list(ARTIFACTS)
        return sorted(Path(file.name).parent.name for file in files if Path(file.name).name == MANIFEST)

    def remove_version(self, version: str) -> None:
        with self._session() as session:
            session.file.remove(f"{ARTIFACTS}/{version}/")
        shutil.rmtree(self._models / version, ignore_errors=True)

    def maintain(self) -> None:
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
    version = analytics.promoted_version()
    with snowflake_resource(settings).create_snowpark_session() as session:
        register_functions(session, version)
    return version


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
