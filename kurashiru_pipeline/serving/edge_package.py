"""The code package of the Lambda function (lambda_handler.py): which modules are in it, and the zip.

Here: a zip that is the same, byte for byte, wherever it is built: no times, no owners, no compression library.
Not here: the function itself, or how it gets to AWS (deploy/aws/README.md).

Only our own modules are in it. boto3 is part of Lambda's Python runtime, which the template holds to the version that
was current when the function was last updated (RuntimeManagementConfig).
"""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from kurashiru_pipeline.environment import PROJECT_ROOT

HANDLER = "kurashiru_pipeline.serving.lambda_handler.handler"
MODULES = (
    "kurashiru_pipeline/__init__.py",
    "kurashiru_pipeline/core/__init__.py",
    "kurashiru_pipeline/core/events.py",
    "kurashiru_pipeline/core/items.py",
    "kurashiru_pipeline/environment.py",
    "kurashiru_pipeline/errors.py",
    "kurashiru_pipeline/serving/__init__.py",
    "kurashiru_pipeline/serving/dynamodb.py",
    "kurashiru_pipeline/serving/external_function.py",
    "kurashiru_pipeline/serving/lambda_handler.py",
)
_FIRST_MOMENT_OF_ZIP = (1980, 1, 1, 0, 0, 0)
_READABLE_FILE = 0o100644


def build(target: Path) -> Path:
    """Write the zip into the folder `target`, which is made if it is missing.

    Returns:
        Its path. The name holds a hash of the content: uploaded under this name, CloudFormation sees that it changed.
    """
    content = _zip()
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"kurashiru-edge-{sha256(content).hexdigest()[:16]}.zip"
    path.write_bytes(content)
    return path


def _zip() -> bytes:
    buffer = BytesIO()
    with ZipFile(buffer, "w", ZIP_STORED) as package:
        for name in MODULES:
            entry = ZipInfo(name, _FIRST_MOMENT_OF_ZIP)
            entry.create_system = 3
            entry.external_attr = _READABLE_FILE << 16
            package.writestr(entry, (PROJECT_ROOT / name).read_bytes())
    return buffer.getvalue()
