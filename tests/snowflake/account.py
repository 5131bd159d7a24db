"""The account as the project deploys it: deploy/snowflake run in a stand-in.

Here: which settings a deployment in the stand-in has, and running its scripts there once.
Not here: the scripts (deploy/snowflake), or the stand-in itself (stand_in.py).
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from kurashiru_pipeline.deployment import scripts
from kurashiru_pipeline.environment import Environment, Settings
from tests.snowflake.stand_in import StandIn

_AWS: Final = "arn:aws:iam::000000000000:role"
_DEPLOYED: Final = "deployed"


def variables(folder: Path) -> dict[str, str]:
    """Environment variables of a pipeline whose warehouse is the stand-in; what else it keeps lies in `folder`.

    The landing bucket has no prefix, so that names of landed files are the same as on the embedded engine.
    """
    key = folder / "stand_in_key.p8"
    folder.mkdir(parents=True, exist_ok=True)
    key.touch()
    return {
        "KURASHIRU_ENV": "production",
        "KURASHIRU_HOME": str(folder),
        "KURASHIRU_ENGINE": "snowflake",
        "KURASHIRU_KERNEL": "process",
        "KURASHIRU_REFLECT": "direct",
        "KURASHIRU_POLL_SECONDS": "0.1",
        "KURASHIRU_LANDING": "s3://landing",
        "KURASHIRU_SNOWFLAKE_ACCOUNT": "stand-in",
        "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH": str(key),
        "KURASHIRU_SNOWFLAKE_EXTERNAL_ID": "stand-in",
        "KURASHIRU_AWS_STORAGE_ROLE_ARN": f"{_AWS}/storage",
        "KURASHIRU_AWS_API_ROLE_ARN": f"{_AWS}/api",
        "KURASHIRU_AWS_API_URL": "https://stand-in.invalid/items",
        "KURASHIRU_AWS_TOPIC_ARN": "arn:aws:sns:ap-northeast-1:000000000000:landed",
    }


def deployed(home: Path, landing: Path) -> StandIn:
    """The stand-in kept in `home`, with everything of deploy/snowflake in it; deployed when it is new."""
    if not (home / _DEPLOYED).exists():
        shutil.copytree(_template(), home, dirs_exist_ok=True)
        (home / _DEPLOYED).touch()
    return StandIn(home, landing=landing)


@cache
def _template() -> Path:
    """Folder of an account that was deployed once in this process; new accounts are copies of it."""
    folder = Path(tempfile.mkdtemp(prefix="kurashiru-stand-in-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    home = folder / "home"
    settings = Settings.load(Environment.PRODUCTION, variables(folder / "settings"))
    account = StandIn(home, landing=folder / "landing")
    account.run_script(scripts.bootstrap(settings).sql)
    for script in scripts.migrations(settings):
        account.run_script(script.sql)
    account.close()
    return home
