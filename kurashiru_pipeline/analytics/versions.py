"""What a person does to the model in service: look, promote, roll back, try beside it.

Here: the acts behind `kurashiru model`, the same on every engine, each written into the history.
Not here: what the gate decides by itself (model_assets.py), how a version comes into service (warehouse.py), printing.
"""

from dataclasses import dataclass
from typing import Any

from kurashiru_pipeline.analytics.warehouse import AnalyticsWarehouse
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import InService, ModelArtifact
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.gate import Action, Record, version_before
from kurashiru_pipeline.errors import ConfigurationError


@dataclass(frozen=True)
class Version:
    """A saved version, or one that only the history knows.

    Attributes:
        place: "in service", "canary", or empty.
        record: the last thing that was done to it, if anything.
    """

    version: str
    is_saved: bool
    place: str
    record: Record | None


def versions(warehouse: AnalyticsWarehouse) -> list[Version]:
    """All versions that are saved or in the history, the newest first."""
    service, saved = warehouse.in_service(), set(warehouse.saved_versions())
    last = {record.version: record for record in warehouse.history()}
    places = {service.canary.version if service.canary else None: "canary", service.version: "in service"}
    return [
        Version(version, version in saved, places.get(version, ""), last.get(version))
        for version in sorted(saved | last.keys(), reverse=True)
    ]


def in_service(warehouse: AnalyticsWarehouse) -> str:
    """The version in service.

    Raises:
        ConfigurationError: there is none.
    """
    version = warehouse.in_service().version
    if version is None:
        message = "no model is in service yet; to see what there is: kurashiru model list"
        raise ConfigurationError(message)
    return version


def described(warehouse: AnalyticsWarehouse, version: str) -> tuple[ModelArtifact, list[Record]]:
    """A saved version, and what was done to it."""
    artifact = warehouse.artifact(version)
    return artifact, [record for record in warehouse.history() if record.version == version]


def promote_by_hand(warehouse: AnalyticsWarehouse, version: str) -> str | None:
    """Put a version in service without asking the gate; the version before. A canary ends by it."""
    before = warehouse.in_service().version
    warehouse.put_in_service(InService(version))
    _record(warehouse, Action.PROMOTED_BY_HAND, version, f"by hand, in place of {before or 'none'}; no gate was asked")
    return before


def roll_back(warehouse: AnalyticsWarehouse) -> tuple[str, str]:
    """Put the version back in service that was there before; (that before, the one taken out). A canary ends by it.

    Raises:
        ConfigurationError: there was none before.
    """
    service, history = warehouse.in_service(), warehouse.history()
    before = version_before(history)
    if service.version is None or before is None:
        message = (
            f"no version was in service before {service.version or 'the first one'}; "
            "to choose one: kurashiru model list, kurashiru model promote VERSION"
        )
        raise ConfigurationError(message)
    warehouse.put_in_service(InService(before))
    _record(warehouse, Action.ROLLED_BACK, before, f"by hand, from {service.version}")
    return before, service.version


def start_canary(warehouse: AnalyticsWarehouse, version: str, share: float) -> Canary:
    """Give a share of the users a challenger's lists, beginning with each one's next micro-batch.

    Raises:
        ConfigurationError: nothing is in service, or this version is, or another canary runs.
    """
    service = warehouse.in_service()
    if service.version is None:
        message = f"no model is in service that {version} could stand beside: kurashiru model promote {version}"
        raise ConfigurationError(message)
    if service.version == version:
        message = f"{version} is in service already; to find another: kurashiru model list"
        raise ConfigurationError(message)
    if service.canary is not None:
        message = f"a canary of {service.canary.version} is running; to end it: kurashiru model canary --stop"
        raise ConfigurationError(message)
    canary = Canary(version, share, utc_now())
    warehouse.put_in_service(InService(service.version, canary))
    reason = f"beside {service.version}, for {share:.1%} of the users"
    _record(warehouse, Action.CANARY_STARTED, version, reason, {"share": share})
    return canary


def stop_canary(warehouse: AnalyticsWarehouse, reason: str, figures: dict[str, Any] | None = None) -> Canary | None:
    """Take the challenger away, and say why; None if there is none."""
    service = warehouse.in_service()
    if service.canary is None:
        return None
    warehouse.put_in_service(InService(service.version))
    _record(warehouse, Action.CANARY_STOPPED, service.canary.version, reason, figures or {})
    return service.canary


def _record(
    warehouse: AnalyticsWarehouse, action: Action, version: str, reason: str, figures: dict[str, Any] | None = None
) -> None:
    warehouse.record(Record(utc_now(), action, version, reason, figures or {}))
