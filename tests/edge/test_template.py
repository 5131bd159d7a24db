"""deploy/aws/template.yaml: clean for cfn-lint, right by our own rules, and both speak up when it is not."""

import re
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from cfnlint.api import lint
from cfnlint.config import ManualArgs
from template_rules import complaints, deployment_name, read_template

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.local.landing import events_key
from kurashiru_pipeline.serving.dynamodb import RecommendationTable

FOLDER = Path(__file__).parents[2] / "deploy" / "aws"
TEXT = (FOLDER / "template.yaml").read_text()
README = (FOLDER / "README.md").read_text()


def lint_findings(text: str) -> list[str]:
    return [f"{match.rule.id} {match.message}" for match in lint(text, config=ManualArgs(regions=["ap-northeast-1"]))]


def changed(old: str, new: str) -> str:
    """The template with an error planted."""
    assert old in TEXT, f"the template has no {old!r} any more"
    return TEXT.replace(old, new)


def test_cfn_lint_is_content() -> None:
    assert lint_findings(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BillingMode: PAY_PER_REQUEST", "BillingMode: PAY_BY_REQUEST"),
        ("ReservedConcurrentExecutions:", "ReservedConcurrency:"),
        ("CompressionFormat: GZIP", "CompressionFormat: GZIPP"),
        ("Runtime: python3.13", "Runtime: python2.1"),
        ("!GetAtt FirehoseRole.Arn", "!GetAtt FirehorseRole.Arn"),
        ("IntervalInSeconds: !Ref BufferSeconds", "IntervalInSeconds: 1000"),
    ],
)
def test_cfn_lint_finds_what_it_should(old: str, new: str) -> None:
    assert lint_findings(changed(old, new))


def test_own_rules_are_content() -> None:
    assert complaints(read_template(TEXT)) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("Types: [REGIONAL]", "Types: [EDGE]", "not REGIONAL"),
        ("Types: [REGIONAL]", "Types: [REGIONALLY]", "not REGIONAL"),
        ("      MinimumCompressionSize: 1024\n", "", "unpack gzipped"),
        ("/${ApiRole}/snowflake'}", "/${ApiRole}/*'}", "lets in others"),
        ("Resource: execute-api:/*/POST/items", "Resource: execute-api:/*", "lets in others"),
        ("AuthorizationType: AWS_IAM", "AuthorizationType: NONE", "does not ask for AWS_IAM"),
        ("Type: AWS_PROXY", "Type: AWS", "Lambda proxy integration"),
        ("TimeoutInMillis: 29000", "TimeoutInMillis: 5000", "29 seconds"),
        ("DataTraceEnabled: false", "DataTraceEnabled: true", "name users"),
        ("          ThrottlingBurstLimit: 50\n", "", "no limit of calls"),
        ("PathPart: items", "PathPart: things", "rename Deployment"),
        ("MinimumCompressionSize: 1024", "MinimumCompressionSize: 2048", "rename Deployment"),
        ("Timeout: 25", "Timeout: 60", "within API Gateway's 29 seconds"),
        ("      ReservedConcurrentExecutions: !Ref FunctionConcurrency\n", "", "bounds the function's concurrency"),
        ("lambda_handler.handler", "lambda_handler.handle", "handler is not"),
        ("Runtime: python3.13", "Runtime: python3.14", "no Python that this project"),
        ("UpdateRuntimeOn: FunctionUpdate", "UpdateRuntimeOn: Auto", "without a deployment"),
        ("KURASHIRU_DYNAMODB_TABLE: !Ref", "TABLE_NAME: !Ref", "TABLE_NAME, which is no setting"),
        ("KURASHIRU_DYNAMODB_TABLE: !Ref", "TABLE_NAME: !Ref", "not given KURASHIRU_DYNAMODB_TABLE"),
        (":${Api}/*/POST/items'", ":${Api}/*'", "may call the function"),
        ("AttributeName: expires_at", "AttributeName: ttl", "does not expire"),
        ("PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false", "no point-in-time recovery"),
        ("SSEEnabled: true", "SSEEnabled: false", "not encrypted with a key"),
        ("!Ref TableDeletionProtection", "false", "deleted by mistake"),
        ("        WriteUnitsPerSecond: !Ref WarmWriteUnits\n", "", "cannot be warmed"),
        ("DeletionPolicy: Retain", "DeletionPolicy: Delete", "goes with the stack"),
        ("Processors: [{Type: AppendDelimiterToRecord}]", "Processors: [{Type: RecordDeAggregation}]", "no line break"),
        (
            "          Enabled: true\n          Processors",
            "          Enabled: false\n          Processors",
            "no line break",
        ),
        ("CompressionFormat: GZIP", "CompressionFormat: UNCOMPRESSED", "does not compress"),
        ("'events/!{timestamp:yyyy/MM/dd/HH}/'", "'events/!{timestamp:yyyy-MM-dd}/'", "not those of docs/contracts.md"),
        ("ErrorOutputPrefix: 'errors/", "ErrorOutputPrefix: 'events/errors/", "lands where Snowpipe loads"),
        ("SizeInMBs: !Ref BufferMegabytes", "SizeInMBs: 5", "not set by the parameters"),
        ("KeyType: AWS_OWNED_CMK", "KeyARN: x", "does not encrypt what it buffers"),
        ("BlockPublicPolicy: true", "BlockPublicPolicy: false", "does not BlockPublicPolicy"),
        ("BucketEncryption:", "Encryption:", "bucket is not encrypted"),
        ("BucketOwnerEnforced", "ObjectWriter", "belong to others"),
        ("            NoncurrentVersionExpiration: {NoncurrentDays: 7}\n", "", "NoncurrentVersionExpiration"),
        ("Value: users/", "Value: user/", "tells of events/, recipes/, user/"),
        ("s3:ObjectCreated:*", "s3:ObjectCreated:Put", "does not tell of all files"),
        ("'aws:SecureTransport': 'false'", "'aws:SecureTransport': 'true'", "answers without TLS"),
        ("Principal: {Service: s3.amazonaws.com}", "Principal: {AWS: '*'}", "others than S3 may publish"),
        ("ArnEquals: {'aws:SourceArn'", "ArnEquals: {'aws:Source'", "buckets of others"),
        ("Action: sns:Subscribe", "Action: sns:*", "others than Snowflake may subscribe"),
        ("!Ref SnowflakeTopicUserArn", "'*'", "others than Snowflake may subscribe"),
        ("!Ref SnowflakeApiUserArn", "'*'", "ApiRole trusts others"),
        ("!Ref SnowflakeStorageUserArn", "'*'", "StorageRole trusts others"),
        (
            "Condition: {StringEquals: {'sts:ExternalId'",
            "Condition: {StringEquals: {'sts:Id'",
            "without an external id",
        ),
        ("      RoleName: !Sub '${Name}-snowflake-api'\n", "", "ApiRole has no name of its own"),
        ("Service: lambda.amazonaws.com", "Service: ec2.amazonaws.com", "FunctionRole trusts others"),
        ("Action: [s3:GetObject, s3:GetObjectVersion]", "Action: s3:*", "StorageRole may do s3:*"),
        ("'${LandingBucket.Arn}/recipes/*'", "'${LandingBucket.Arn}/*'", "StorageRole may reach"),
        ("Resource: !GetAtt EventStream.Arn", "Resource: '*'", "EventProducerPolicy may reach *"),
        (
            "[dynamodb:DescribeTable, dynamodb:DescribeTimeToLive, dynamodb:GetItem",
            "[dynamodb:DeleteItem, dynamodb:GetItem",
            "OrchestratorPolicy may do",
        ),
        ("AmazonAPIGatewayPushToCloudWatchLogs", "AdministratorAccess", "policy of AWS's besides"),
        ("{'s3:prefix': ['events/*', 'recipes/*', 'users/*']}", "{'s3:prefix': ['*']}", "list more than the stage"),
        ("'dynamodb:LeadingKeys': ['#marker']", "'dynamodb:LeadingKeys': ['#marker', '#default']", "more than #marker"),
        ("            - WritesDirectly\n", "            - HasAlarmTopic\n", "though Reflect is external_function"),
        ("            - AsksExternalSource\n", "            - HasAlarmTopic\n", "though none is named"),
        ("endpoint/${ExternalEndpointName}", "endpoint/*", "OrchestratorPolicy may reach"),
        ("Action: sagemaker:InvokeEndpoint", "Action: sagemaker:*", "OrchestratorPolicy may do"),
        ("      RetentionInDays: !Ref LogRetentionDays\n", "", "keeps its lines for ever"),
        ("      LoggingConfig: {LogGroup: !Ref FunctionLogGroup}\n", "", "logs where nothing is deleted"),
        ("      TreatMissingData: notBreaching\n", "", "rings at night"),
        ("MetricName: Throttles", "MetricName: Duration", "no alarm watches Throttles"),
        ("MetricValue: $.refused", "MetricValue: '1'", "not the count"),
        ("Description: KURASHIRU_AWS_API_URL", "Description: URL", "KURASHIRU_AWS_API_URL is said to be output ApiUrl"),
    ],
)
def test_own_rules_find_what_cfn_lint_may_miss(old: str, new: str, complaint: str) -> None:
    found = complaints(read_template(changed(old, new)))
    assert any(complaint in each for each in found), found


def test_name_of_the_deployment_follows_its_content() -> None:
    template = read_template(TEXT)
    assert deployment_name(template) == deployment_name(read_template(TEXT + "\n# said once more\n"))
    assert deployment_name(template) != deployment_name(read_template(changed("PathPart: items", "PathPart: lists")))
    assert deployment_name(template) == deployment_name(read_template(changed("MemorySize: 1769", "MemorySize: 512")))


def test_table_is_the_one_that_the_pipeline_creates_for_itself(aws_endpoint: str) -> None:
    settings = Settings.load(
        Environment.LOCAL,
        {"KURASHIRU_DYNAMODB_ENDPOINT": aws_endpoint, "KURASHIRU_DYNAMODB_TABLE": "as-created-by-the-pipeline"},
    )
    table = RecommendationTable.from_settings(settings)
    table.ensure_exists(create=True)
    client = boto3.client(
        "dynamodb",
        endpoint_url=aws_endpoint,
        region_name="ap-northeast-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    created = client.describe_table(TableName=table.name)["Table"]
    expiry = client.describe_time_to_live(TableName=table.name)["TimeToLiveDescription"]
    properties = read_template(TEXT)["Resources"]["RecommendationTable"]["Properties"]
    assert properties["KeySchema"] == created["KeySchema"]
    assert properties["AttributeDefinitions"] == created["AttributeDefinitions"]
    assert properties["BillingMode"] == created["BillingModeSummary"]["BillingMode"]
    assert properties["TimeToLiveSpecification"]["AttributeName"] == expiry["AttributeName"]


def test_events_land_under_the_keys_of_the_embedded_landing_folder() -> None:
    prefix = read_template(TEXT)["Resources"]["EventStream"]["Properties"]["ExtendedS3DestinationConfiguration"][
        "Prefix"
    ]
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    rendered = prefix.replace("!{timestamp:yyyy/MM/dd/HH}", moment.strftime("%Y/%m/%d/%H"))
    assert events_key(moment, uuid4()).startswith(rendered)


def test_readme_names_every_parameter_and_output_and_no_other() -> None:
    template = read_template(TEXT)
    for name in [*template["Parameters"], *template["Outputs"]]:
        assert f"`{name}`" in README, f"deploy/aws/README.md does not explain {name}"
    overrides = re.findall(r"^ +(\w+)=", README, re.MULTILINE)
    assert overrides
    assert set(overrides) <= template["Parameters"].keys()


def test_readme_knows_the_defaults() -> None:
    parameters = read_template(TEXT)["Parameters"]
    told = dict(re.findall(r"^\| `(\w+)` \| ([\w_]+) \|", README, re.MULTILINE))
    assert told.pop("AlarmTopicArn") == "none"
    assert len(told) > 5
    assert told == {name: str(parameters[name]["Default"]) for name in told}
