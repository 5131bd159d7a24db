"""MiniStack, an AWS emulator, in a process and an environment of its own, with IAM enforced; and the stack on it."""

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from kurashiru_pipeline.environment import PROJECT_ROOT
from kurashiru_pipeline.serving import edge_package

PYTHON = PROJECT_ROOT / ".venv-edge" / "bin" / "python"
TEMPLATE = PROJECT_ROOT / "deploy" / "aws" / "template.yaml"
REGION = "ap-northeast-1"
ACCOUNT = "000000000000"
STACK = "kurashiru-production"
CODE_BUCKET = "code"
ROOT = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}


@dataclass
class EmulatedAws:
    """A running emulator; its account's root user may do everything."""

    port: int

    def client(self, service: str, credentials: dict[str, str] | None = None) -> Any:
        endpoint = f"http://127.0.0.1:{self.port}"
        return boto3.client(service, endpoint_url=endpoint, region_name=REGION, **(credentials or ROOT))

    def assume(
        self, role_arn: str, external_id: str, session: str = "snowflake", by: dict[str, str] | None = None
    ) -> dict[str, str]:
        """Credentials of a role's session, for `client` and `post`."""
        answer = self.client("sts", by).assume_role(RoleArn=role_arn, RoleSessionName=session, ExternalId=external_id)
        given = answer["Credentials"]
        return {
            "aws_access_key_id": given["AccessKeyId"],
            "aws_secret_access_key": given["SecretAccessKey"],
            "aws_session_token": given["SessionToken"],
        }

    def post(
        self, url: str, body: str, headers: dict[str, str], credentials: dict[str, str] | None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON body of a POST to the API's URL, signed as Snowflake does if there are credentials.

        The emulator serves the API under a name of its own instead of `<id>.execute-api.<region>.amazonaws.com`.
        """
        parts = urlsplit(url)
        host = f"{parts.netloc.partition('.')[0]}.execute-api.localhost:{self.port}"
        request = AWSRequest(
            "POST", f"http://{host}{parts.path}", data=body.encode(), headers={**headers, "Host": host}
        )
        if credentials is not None:
            SigV4Auth(Credentials(*credentials.values()), "execute-api", REGION).add_auth(request)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("POST", parts.path, body.encode(), dict(request.headers.items()))
        response = connection.getresponse()
        content = json.loads(response.read())
        connection.close()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, content

    def deploy(self, parameters: dict[str, str]) -> dict[str, str]:
        """Create the stack, or update it, and wait: its outputs. What is not given keeps its value."""
        client = self.client("cloudformation")
        text = TEMPLATE.read_text()
        is_new = not client.list_stacks(StackStatusFilter=["CREATE_COMPLETE", "UPDATE_COMPLETE"])["StackSummaries"]
        call = client.create_stack if is_new else client.update_stack
        given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
        call(StackName=STACK, TemplateBody=text, Parameters=given, Capabilities=["CAPABILITY_NAMED_IAM"])
        for _ in range(600):
            [stack] = client.describe_stacks(StackName=STACK)["Stacks"]
            if not stack["StackStatus"].endswith("IN_PROGRESS"):
                break
            time.sleep(0.05)
        failures = [
            f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
            for event in client.describe_stack_events(StackName=STACK)["StackEvents"]
            if "FAILED" in event["ResourceStatus"]
        ]
        expected = "CREATE_COMPLETE" if is_new else "UPDATE_COMPLETE"
        assert (stack["StackStatus"], failures) == (expected, []), stack.get("StackStatusReason")
        return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}

    def upload_code(self, folder: Path) -> str:
        """Build the function's package and put it where CloudFormation finds it: its key."""
        package = edge_package.build(folder)
        client = self.client("s3")
        client.create_bucket(Bucket=CODE_BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        client.upload_file(str(package), CODE_BUCKET, package.name)
        return package.name


@contextmanager
def emulated_aws(folder: Path) -> Iterator[EmulatedAws]:
    """Start the emulator on a free port of this machine; it is gone afterwards, its files are in `folder`."""
    if not PYTHON.exists():
        message = f"{PYTHON} is missing: the AWS emulator is not installed; install it with `make setup`"
        raise RuntimeError(message)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_REGION": REGION,
        "AUTH": "true",
        "AWS_ACCESS_KEY_ID": ROOT["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": ROOT["aws_secret_access_key"],
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    log = folder / "ministack.log"
    with log.open("w") as output:
        process = subprocess.Popen([PYTHON, "-m", "ministack"], env=variables, cwd=folder, stdout=output, stderr=output)
        try:
            _wait_for(process, port, log)
            yield EmulatedAws(port)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            message = f"the AWS emulator stopped:\n{log.read_text()[-3000:]}"
            raise RuntimeError(message)
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    message = f"the AWS emulator does not answer on port {port}:\n{log.read_text()[-3000:]}"
    raise RuntimeError(message)
