"""The AWS side end to end: template.yaml deployed on an emulator, Snowflake's request in, items in DynamoDB out.

The emulator runs the function's code, stores what the resources say, and enforces IAM: trust, external ids, policies,
signatures. What it ignores, and only test_template.py looks at:
- of the bucket: lifecycle; of the table: TTL, point-in-time recovery, warm throughput, encryption; of the function:
  reserved concurrency, architecture, Python version; of the API: access log, throttling, unpacking of gzip;
- of Firehose: line break between records, compression, buffering (each record becomes a file at once);
- of IAM: the condition on dynamodb:LeadingKeys (the orchestrator may put any item).
A user whom a role trusts needs a policy besides, unlike on AWS; and there is no TLS, which the bucket's policy wants.
"""

import json
import time
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import md5
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulated_aws import ACCOUNT, CODE_BUCKET, STACK, TEMPLATE, EmulatedAws, emulated_aws
from template_rules import read_template

from kurashiru_pipeline.core.items import decode_item
from tests.serving.put_items_calls import HEADERS, TOMBSTONE, body_of, recommendation

pytestmark = pytest.mark.xdist_group("edge")

STORAGE_ID, API_ID = "hard-to-guess", "EXTERNAL_FUNCTIONS_SFCRole=3_made/by+Snowflake="
BUCKET = "kurashiru-production-landing"


@dataclass
class Edge:
    """The deployed stack."""

    aws: EmulatedAws
    outputs: dict[str, str]
    parameters: dict[str, str]

    def snowflake(self, session: str = "snowflake") -> dict[str, str]:
        """Credentials of the role that calls the API."""
        return self.aws.assume(self.outputs["ApiRoleArn"], API_ID, session)

    def put_items(self, rows: list[tuple[Any, ...]], credentials: dict[str, str] | None) -> tuple[int, Any]:
        status, headers, content = self.aws.post(self.outputs["ApiUrl"], body_of(rows), HEADERS, credentials)
        if status == 200:
            text = json.dumps(content, separators=(",", ":"))
            assert b64decode(headers["content-md5"]) == md5(text.encode()).digest()
        return status, content

    def items(self) -> dict[str, Any]:
        found = self.aws.client("dynamodb").scan(TableName=self.outputs["TableName"], ConsistentRead=True)["Items"]
        return {item["user_id"]["S"]: item for item in found}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("aws")
    with emulated_aws(folder) as aws:
        parameters = {
            "LandingBucketName": BUCKET,
            "CodeBucket": CODE_BUCKET,
            "CodeKey": aws.upload_code(folder / "package"),
            "SnowflakeStorageExternalId": STORAGE_ID,
            "SnowflakeApiExternalId": API_ID,
        }
        yield Edge(aws, aws.deploy(parameters), parameters)


@pytest.fixture
def empty_table(edge: Edge) -> None:
    client = edge.aws.client("dynamodb")
    for user_id in edge.items():
        client.delete_item(TableName=edge.outputs["TableName"], Key={"user_id": {"S": user_id}})


def denied(call: Any, **arguments: Any) -> bool:
    """Whether a call is refused for want of a right, and for nothing else."""
    try:
        call(**arguments)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        assert code in {"AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException"}, (
            code
        )
        return True
    return False


def test_every_resource_of_the_template_is_made(edge: Edge) -> None:
    made = {
        resource["LogicalResourceId"]: resource["ResourceStatus"]
        for page in edge.aws.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=STACK)
        for resource in page["StackResourceSummaries"]
    }
    template = read_template(TEMPLATE.read_text())
    assert made == dict.fromkeys(template["Resources"], "CREATE_COMPLETE")
    assert edge.outputs.keys() == template["Outputs"].keys()
    assert edge.outputs["LandingBucket"] == BUCKET
    assert edge.outputs["TableName"] == "recommendations"
    assert edge.outputs["ApiUrl"].endswith(".execute-api.ap-northeast-1.amazonaws.com/production/items")


@pytest.mark.usefixtures("empty_table")
def test_snowflakes_request_becomes_items(edge: Edge) -> None:
    credentials = edge.snowflake()
    rows = [("u1", 7, recommendation()), ("u2", 7, TOMBSTONE), ("bad id", 7, TOMBSTONE)]
    status, content = edge.put_items(rows, credentials)
    assert status == 200
    assert [(number, value["status"]) for number, value in content["data"]] == [(0, "OK"), (1, "OK"), (2, "REFUSED")]
    items = edge.items()
    assert items.keys() == {"u1", "u2"}
    assert [entry.recipe_id for entry in decode_item(items["u1"]).entries] == ["r1", "r2"]
    assert decode_item(items["u2"]).is_deleted
    assert edge.put_items(rows, credentials) == (status, content)
    assert edge.items() == items
    status, content = edge.put_items([("u1", 6, TOMBSTONE), ("u2", 8, recommendation())], credentials)
    assert [value["status"] for _, value in content["data"]] == ["STALE", "OK"]
    assert {user_id: item["version"]["N"] for user_id, item in edge.items().items()} == {"u1": "7", "u2": "8"}


@pytest.mark.usefixtures("empty_table")
def test_large_batch_is_written_whole(edge: Edge) -> None:
    rows = [(f"user{number}", 1, recommendation()) for number in range(200)]
    status, content = edge.put_items(rows, edge.snowflake())
    assert status == 200
    assert [number for number, _ in content["data"]] == list(range(200))
    assert {value["status"] for _, value in content["data"]} == {"OK"}
    assert len(edge.items()) == 200


def test_what_is_no_batch_is_refused(edge: Edge) -> None:
    headers = {**HEADERS, "sf-external-function-format-version": "2.0"}
    status, _, content = edge.aws.post(edge.outputs["ApiUrl"], body_of([]), headers, edge.snowflake())
    assert status == 400
    assert "'2.0' is not understood" in content["error"]


@pytest.mark.usefixtures("empty_table")
def test_only_snowflakes_session_may_call_the_api(edge: Edge) -> None:
    rows = [("intruder", 1, TOMBSTONE)]
    assert edge.put_items(rows, None)[0] == 403
    assert edge.put_items(rows, edge.snowflake(session="somebody"))[0] == 403
    storage = edge.aws.assume(edge.outputs["StorageRoleArn"], STORAGE_ID)
    assert edge.put_items(rows, storage)[0] == 403
    assert denied(edge.aws.assume, role_arn=edge.outputs["ApiRoleArn"], external_id=STORAGE_ID)
    assert denied(edge.aws.assume, role_arn=edge.outputs["StorageRoleArn"], external_id=API_ID)
    function = edge.aws.client("lambda", edge.snowflake())
    assert denied(function.invoke, FunctionName=edge.outputs["FunctionName"], Payload=b"{}")
    assert edge.items() == {}


def test_batches_are_logged_without_users(edge: Edge) -> None:
    edge.put_items([("nobody-in-the-log", 1, recommendation())], edge.snowflake())
    client = edge.aws.client("logs")
    group = f"/aws/lambda/{edge.outputs['FunctionName']}"
    lines = [
        event["message"]
        for stream in client.describe_log_streams(logGroupName=group)["logStreams"]
        for event in client.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
    ]
    figures = [json.loads(line) for line in lines if line.startswith("{")]
    assert any(line["status"] == 200 and line["batch_id"] and line["ok"] == 1 for line in figures)
    assert not any("nobody-in-the-log" in line for line in lines)


class Listener:
    """A queue on the topic of landed files, like the one Snowpipe has."""

    def __init__(self, edge: Edge, name: str) -> None:
        self._client = edge.aws.client("sqs")
        self._url = self._client.create_queue(QueueName=name)["QueueUrl"]
        attributes = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]
        self.arn = attributes["QueueArn"]
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "sns.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": self.arn,
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self._client.set_queue_attributes(QueueUrl=self._url, Attributes={"Policy": policy})

    def keys(self, count: int) -> set[str]:
        """Keys of landed files that were told of: at least `count`, and what comes within half a second after."""
        found: set[str] = set()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            messages = self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages", [])
            for message in messages:
                records = json.loads(json.loads(message["Body"])["Message"]).get("Records", [])
                found |= {record["s3"]["object"]["key"] for record in records}
                self._client.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
            if len(found) >= count and not messages:
                deadline = min(deadline, time.monotonic() + 0.5)
            time.sleep(0.05)
        return found


def test_landed_files_are_told_of_by_prefix(edge: Edge) -> None:
    listener = Listener(edge, "snowpipe")
    topic = edge.outputs["TopicArn"]
    edge.aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=listener.arn)
    client = edge.aws.client("s3")
    keys = ["events/2026/01/02/03/a.gz", "recipes/a.parquet", "users/a.parquet", "errors/a.gz", "a.gz", "eventsx/a.gz"]
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=b"content")
    assert listener.keys(3) == set(keys[:3])
    records = [{"Data": b'{"event_id": 1}'}, {"Data": b'{"event_id": 2}'}]
    stream = edge.outputs["EventStreamName"]
    assert (
        edge.aws.client("firehose").put_record_batch(DeliveryStreamName=stream, Records=records)["FailedPutCount"] == 0
    )
    delivered = listener.keys(2)
    hour = time.strftime("events/%Y/%m/%d/", time.gmtime())
    assert len(delivered) == 2
    assert all(key.startswith(hour) and "kurashiru-production-events-1-" in key for key in delivered)


def test_storage_role_reads_the_stage_and_nothing_else(edge: Edge) -> None:
    root = edge.aws.client("s3")
    for key in ("events/1.gz", "errors/1.gz"):
        root.put_object(Bucket=BUCKET, Key=key, Body=b"content")
    client = edge.aws.client("s3", edge.aws.assume(edge.outputs["StorageRoleArn"], STORAGE_ID))
    assert denied(client.get_object, Bucket=BUCKET, Key="events/1.gz"), "the bucket answers without TLS"
    policy = root.get_bucket_policy(Bucket=BUCKET)["Policy"]
    root.delete_bucket_policy(Bucket=BUCKET)
    try:
        assert not denied(client.get_object, Bucket=BUCKET, Key="events/1.gz")
        assert not denied(client.list_objects_v2, Bucket=BUCKET, Prefix="events/")
        assert not denied(client.get_bucket_location, Bucket=BUCKET)
        assert denied(client.get_object, Bucket=BUCKET, Key="errors/1.gz")
        assert denied(client.list_objects_v2, Bucket=BUCKET)
        assert denied(client.put_object, Bucket=BUCKET, Key="events/2.gz", Body=b"")
        assert denied(client.delete_object, Bucket=BUCKET, Key="events/1.gz")
        assert denied(client.get_object, Bucket=CODE_BUCKET, Key=edge.parameters["CodeKey"])
    finally:
        root.put_bucket_policy(Bucket=BUCKET, Policy=policy)


@pytest.mark.usefixtures("empty_table")
def test_orchestrator_reads_the_table_and_claims_it(edge: Edge) -> None:
    role = new_role(edge, "dagster")
    edge.aws.client("iam").attach_role_policy(RoleName="dagster", PolicyArn=edge.outputs["OrchestratorPolicyArn"])
    client = edge.aws.client("dynamodb", edge.aws.assume(role, "any"))
    table = edge.outputs["TableName"]
    marker = {"user_id": {"S": "#marker"}, "delivery_id": {"S": "one"}}
    assert not denied(client.describe_table, TableName=table)
    assert not denied(client.put_item, TableName=table, Item=marker)
    assert client.get_item(TableName=table, Key={"user_id": {"S": "#marker"}})["Item"] == marker
    assert not denied(client.scan, TableName=table)
    assert denied(client.delete_item, TableName=table, Key={"user_id": {"S": "#marker"}})
    assert denied(client.batch_write_item, RequestItems={table: [{"PutRequest": {"Item": marker}}]})


def new_role(edge: Edge, name: str) -> str:
    """ARN of a new role that the account may assume."""
    trust = {"Effect": "Allow", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = edge.aws.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]
    return str(role["Arn"])


def new_user(edge: Edge, name: str) -> tuple[str, dict[str, str]]:
    """ARN and credentials of a new user that may assume whatever role trusts it."""
    client = edge.aws.client("iam")
    arn = client.create_user(UserName=name)["User"]["Arn"]
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    client.put_user_policy(UserName=name, PolicyName="assume", PolicyDocument=document)
    key = client.create_access_key(UserName=name)["AccessKey"]
    return arn, {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


@pytest.mark.usefixtures("empty_table")
def test_second_pass_hands_the_roles_to_snowflakes_user_and_keeps_the_items(edge: Edge) -> None:
    assert edge.put_items([("u1", 1, recommendation())], edge.snowflake())[0] == 200
    items = edge.items()
    arn, user = new_user(edge, "of-snowflake")
    _, stranger = new_user(edge, "stranger")
    queue = Listener(edge, "second-pass").arn
    subscription = {"TopicArn": edge.outputs["TopicArn"], "Protocol": "sqs", "Endpoint": queue}
    assert denied(edge.aws.client("sns", user).subscribe, **subscription)
    users = dict.fromkeys(("SnowflakeStorageUserArn", "SnowflakeApiUserArn", "SnowflakeTopicUserArn"), arn)
    try:
        assert edge.aws.deploy({**edge.parameters, **users}) == edge.outputs
        assert edge.items() == items
        api = {"role_arn": edge.outputs["ApiRoleArn"], "external_id": API_ID}
        storage = {"role_arn": edge.outputs["StorageRoleArn"], "external_id": STORAGE_ID}
        for role in (api, storage):
            assert denied(edge.aws.assume, **role), "the account may still assume Snowflake's role"
            assert denied(edge.aws.assume, **role, by=stranger)
            assert denied(edge.aws.assume, **{**role, "external_id": "guessed"}, by=user)
            assert not denied(edge.aws.assume, **role, by=user)
        assert edge.put_items([("u1", 2, recommendation())], edge.aws.assume(**api, by=user))[0] == 200
        assert edge.items()["u1"]["version"] == {"N": "2"}
        assert denied(edge.aws.client("sns", stranger).subscribe, **subscription)
        assert not denied(edge.aws.client("sns", user).subscribe, **subscription)
    finally:
        edge.aws.deploy(edge.parameters)
