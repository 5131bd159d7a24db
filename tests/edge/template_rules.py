"""What must hold of deploy/aws/template.yaml and cfn-lint does not know: Snowflake's demands, least privilege, names.

Each rule gives complaints in words; test_template.py plants errors to see that each rule speaks up.
"""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from itertools import chain
from typing import Any

import yaml

from kurashiru_pipeline.environment import SETTINGS
from kurashiru_pipeline.serving.edge_package import HANDLER

Node = dict[str, Any]

STAGE_PREFIXES = ("events/", "recipes/", "users/")
STATEFUL = ("LandingBucket", "RecommendationTable")
TABLE = {"Fn::GetAtt": ["RecommendationTable", "Arn"]}
BUCKET = {"Fn::GetAtt": ["LandingBucket", "Arn"]}
ENDPOINT = "arn:${AWS::Partition}:sagemaker:${AWS::Region}:${AWS::AccountId}:endpoint/${ExternalEndpointName}"
GRANTS = {
    "StorageRole": {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:GetBucketLocation"},
    "FirehoseRole": {
        "s3:PutObject",
        "s3:GetObject",
        "s3:AbortMultipartUpload",
        "s3:GetBucketLocation",
        "s3:ListBucket",
        "s3:ListBucketMultipartUploads",
        "logs:PutLogEvents",
    },
    "FunctionRole": {"dynamodb:PutItem", "logs:CreateLogStream", "logs:PutLogEvents"},
    "ApiRole": set(),
    "ApiGatewayLogRole": set(),
    "EventProducerPolicy": {"firehose:PutRecord", "firehose:PutRecordBatch"},
    "OrchestratorPolicy": {
        "dynamodb:DescribeTable",
        "dynamodb:DescribeTimeToLive",
        "dynamodb:GetItem",
        "dynamodb:Scan",
        "dynamodb:PutItem",
        "dynamodb:BatchWriteItem",
        "sagemaker:InvokeEndpoint",
    },
}
"""Everything that anything of the stack may do."""


class _Loader(yaml.CSafeLoader):
    """YAML with CloudFormation's short forms."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> Node:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt":
        value = value.split(".", 1)
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)


def read_template(text: str) -> Node:
    template: Node = yaml.load(text, _Loader)
    return template


def complaints(template: Node) -> list[str]:
    """Everything that is wrong; nothing when all is well."""
    rules = (
        _api,
        _deployment,
        _function,
        _table,
        _firehose,
        _bucket,
        _topic,
        _trust,
        _grants,
        _orchestrator,
        _logs,
        _alarms,
        _outputs,
    )
    return list(chain.from_iterable(rule(template) for rule in rules))


def deployment_name(template: Node) -> str:
    """Name of the API's deployment: another one as soon as anything changes that is part of the picture."""
    picture = [template["Resources"][name] for name in ("Api", "ItemsResource", "ItemsMethod")]
    return f"Deployment{sha256(json.dumps(picture, sort_keys=True).encode()).hexdigest()[:8]}"


def _properties(template: Node, name: str) -> Node:
    properties: Node = template["Resources"][name].get("Properties", {})
    return properties


def _of_type(template: Node, kind: str) -> dict[str, Node]:
    return {name: node for name, node in template["Resources"].items() if node["Type"] == kind}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _api(template: Node) -> Iterator[str]:
    api = _properties(template, "Api")
    if api.get("EndpointConfiguration") != {"Types": ["REGIONAL"]}:
        yield "the API is not REGIONAL, the only public form that Snowflake calls"
    if "MinimumCompressionSize" not in api:
        yield "the API does not unpack gzipped requests"
    principal = "arn:${AWS::Partition}:sts::${AWS::AccountId}:assumed-role/${ApiRole}/snowflake"
    allowed = {
        "Effect": "Allow",
        "Principal": {"AWS": {"Fn::Sub": principal}},
        "Action": "execute-api:Invoke",
        "Resource": "execute-api:/*/POST/items",
    }
    if api.get("Policy", {}).get("Statement") != [allowed]:
        yield "the API's resource policy lets in others than Snowflake's session of ApiRole, or not even that"
    methods = _of_type(template, "AWS::ApiGateway::Method")
    for name in methods:
        method = _properties(template, name)
        if method.get("AuthorizationType") != "AWS_IAM":
            yield f"method {name} does not ask for AWS_IAM"
        if method["HttpMethod"] != "POST" or method["Integration"].get("Type") != "AWS_PROXY":
            yield f"method {name} is not POST with Lambda proxy integration"
        if method["Integration"].get("TimeoutInMillis") != 29_000:
            yield f"method {name} does not wait API Gateway's 29 seconds"
    if list(methods) != ["ItemsMethod"]:
        yield f"the API has the methods {', '.join(methods)} instead of one"
    if not _properties(template, "ApiStage").get("AccessLogSetting"):
        yield "the API keeps no access log"
    [throttle] = _properties(template, "ApiStage").get("MethodSettings") or [{}]
    if throttle.get("DataTraceEnabled") is not False:
        yield "the API may log requests, which name users"
    if not (throttle.get("ThrottlingRateLimit") and throttle.get("ThrottlingBurstLimit")):
        yield "the API has no limit of calls"


def _deployment(template: Node) -> Iterator[str]:
    expected = deployment_name(template)
    found = list(_of_type(template, "AWS::ApiGateway::Deployment"))
    if found != [expected]:
        yield f"the API has changed: rename {', '.join(found)} to {expected} in template.yaml, or it is not deployed"


def _function(template: Node) -> Iterator[str]:
    function = _properties(template, "Function")
    if function.get("Handler") != HANDLER:
        yield f"the function's handler is not {HANDLER}"
    if not 10 <= function.get("Timeout", 3) <= 27:
        yield "the function does not end, cold start included, within API Gateway's 29 seconds"
    if "ReservedConcurrentExecutions" not in function:
        yield "nothing bounds the function's concurrency, and with it the writes of DynamoDB"
    if not re.fullmatch(r"python3\.1[1-3]", function.get("Runtime", "")):
        yield "the function's runtime is no Python that this project is tested with"
    if function.get("RuntimeManagementConfig") != {"UpdateRuntimeOn": "FunctionUpdate"}:
        yield "the function's runtime, and boto3 in it, changes without a deployment"
    variables = function["Environment"]["Variables"]
    known = {"KURASHIRU_ENV", *(setting.variable for setting in SETTINGS)}
    yield from (f"the function is given {name}, which is no setting" for name in variables.keys() - known)
    needed = {"KURASHIRU_ENV", "KURASHIRU_AWS_REGION", "KURASHIRU_DYNAMODB_TABLE"}
    yield from (f"the function is not given {name}" for name in needed - variables.keys())
    if "/*/POST/items" not in str(_properties(template, "FunctionPermission").get("SourceArn")):
        yield "others than the API's method may call the function"


def _table(template: Node) -> Iterator[str]:
    table = _properties(template, "RecommendationTable")
    if table.get("TimeToLiveSpecification") != {"AttributeName": "expires_at", "Enabled": True}:
        yield "the table does not expire items by expires_at"
    if table.get("PointInTimeRecoverySpecification") != {"PointInTimeRecoveryEnabled": True}:
        yield "the table has no point-in-time recovery"
    if table.get("SSESpecification", {}).get("SSEEnabled") is not True:
        yield "the table is not encrypted with a key of this account"
    if table.get("DeletionProtectionEnabled") != {"Ref": "TableDeletionProtection"}:
        yield "the table may be deleted by mistake"
    if template["Parameters"]["TableDeletionProtection"]["Default"] != "true":
        yield "the table may be deleted by mistake unless somebody asks for protection"
    warm = {"ReadUnitsPerSecond": {"Ref": "WarmReadUnits"}, "WriteUnitsPerSecond": {"Ref": "WarmWriteUnits"}}
    if table.get("WarmThroughput") != warm:
        yield "the table cannot be warmed for a full resend"
    for name in STATEFUL:
        node = template["Resources"][name]
        if {node.get("DeletionPolicy"), node.get("UpdateReplacePolicy")} != {"Retain"}:
            yield f"{name} and what is in it goes with the stack"


def _firehose(template: Node) -> Iterator[str]:
    stream = _properties(template, "EventStream")
    target = stream["ExtendedS3DestinationConfiguration"]
    processing = target.get("ProcessingConfiguration", {})
    kinds = [processor["Type"] for processor in processing.get("Processors", [])]
    if not (processing.get("Enabled") is True and kinds == ["AppendDelimiterToRecord"]):
        yield "Firehose puts no line break between events"
    if target.get("CompressionFormat") != "GZIP":
        yield "Firehose does not compress"
    if target.get("Prefix") != "events/!{timestamp:yyyy/MM/dd/HH}/":
        yield "Firehose's keys are not those of docs/contracts.md: events/YYYY/MM/DD/HH/"
    errors = target.get("ErrorOutputPrefix", "")
    if not errors.startswith("errors/") or errors.startswith(STAGE_PREFIXES):
        yield "what Firehose cannot deliver lands where Snowpipe loads"
    if target.get("BufferingHints") != {
        "IntervalInSeconds": {"Ref": "BufferSeconds"},
        "SizeInMBs": {"Ref": "BufferMegabytes"},
    }:
        yield "Firehose's buffering is not set by the parameters"
    if stream.get("DeliveryStreamEncryptionConfigurationInput", {}).get("KeyType") is None:
        yield "Firehose does not encrypt what it buffers"
    if target.get("CloudWatchLoggingOptions", {}).get("Enabled") is not True:
        yield "Firehose does not log why it cannot deliver"


def _bucket(template: Node) -> Iterator[str]:
    bucket = _properties(template, "LandingBucket")
    block = bucket.get("PublicAccessBlockConfiguration", {})
    names = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
    yield from (f"the bucket does not {name}" for name in names if block.get(name) is not True)
    if not bucket.get("BucketEncryption"):
        yield "the bucket is not encrypted"
    if bucket.get("OwnershipControls") != {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}:
        yield "the bucket's objects may belong to others"
    for rule in bucket.get("LifecycleConfiguration", {}).get("Rules", [{}]):
        for part in ("ExpirationInDays", "NoncurrentVersionExpiration", "AbortIncompleteMultipartUpload"):
            if rule.get("Status") != "Enabled" or part not in rule:
                yield f"the bucket keeps for ever what {part} would delete"
    prefixes = []
    for notification in bucket.get("NotificationConfiguration", {}).get("TopicConfigurations", []):
        [rule] = notification["Filter"]["S3Key"]["Rules"]
        prefixes.append(rule["Value"])
        if (rule["Name"], notification["Event"]) != ("prefix", "s3:ObjectCreated:*"):
            yield f"the bucket does not tell of all files of {rule['Value']}"
    if sorted(prefixes) != sorted(STAGE_PREFIXES):
        yield f"the bucket tells of {', '.join(prefixes) or 'nothing'} instead of {', '.join(STAGE_PREFIXES)}"
    deny = {
        "Sid": "OnlyTls",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [BUCKET, {"Fn::Sub": "${LandingBucket.Arn}/*"}],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    if deny not in _properties(template, "LandingBucketPolicy")["PolicyDocument"]["Statement"]:
        yield "the bucket answers without TLS"


def _topic(template: Node) -> Iterator[str]:
    statements = _properties(template, "LandingTopicPolicy")["PolicyDocument"]["Statement"]
    publishers = [each for each in statements if "sns:Publish" in _listed(each["Action"])]
    if [each["Principal"] for each in publishers] != [{"Service": "s3.amazonaws.com"}]:
        yield "others than S3 may publish to the topic"
    for each in publishers:
        source = each.get("Condition", {})
        if "aws:SourceArn" not in source.get("ArnEquals", {}) or "aws:SourceAccount" not in source.get(
            "StringEquals", {}
        ):
            yield "buckets of others may publish to the topic"
    subscribers = [each for each in statements if "sns:Subscribe" in _listed(each["Action"])]
    if [each["Principal"]["AWS"] for each in subscribers] != [
        _until_known("TopicUserIsKnown", "SnowflakeTopicUserArn")
    ]:
        yield "others than Snowflake may subscribe to the topic"
    actions = list(chain.from_iterable(_listed(each["Action"]) for each in statements))
    if set(actions) != {"sns:Publish", "sns:Subscribe"}:
        yield f"the topic allows {', '.join(sorted(set(actions)))}"


def _until_known(condition: str, parameter: str) -> Node:
    root = {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}
    return {"Fn::If": [condition, {"Ref": parameter}, root]}


def _trust(template: Node) -> Iterator[str]:
    services = {
        "FirehoseRole": "firehose.amazonaws.com",
        "FunctionRole": "lambda.amazonaws.com",
        "ApiGatewayLogRole": "apigateway.amazonaws.com",
    }
    snowflake = {
        "StorageRole": _until_known("StorageUserIsKnown", "SnowflakeStorageUserArn"),
        "ApiRole": _until_known("ApiUserIsKnown", "SnowflakeApiUserArn"),
    }
    for name in _of_type(template, "AWS::IAM::Role"):
        [statement] = _properties(template, name)["AssumeRolePolicyDocument"]["Statement"]
        if name in snowflake:
            if statement["Principal"] != {"AWS": snowflake[name]}:
                yield f"{name} trusts others than Snowflake's user"
            if not statement.get("Condition", {}).get("StringEquals", {}).get("sts:ExternalId"):
                yield f"{name} can be assumed without an external id"
            if not _properties(template, name).get("RoleName"):
                yield f"{name} has no name of its own, so that its Arn, which Snowflake holds, may change"
        elif statement["Principal"] != {"Service": services.get(name)}:
            yield f"{name} trusts others than {services.get(name)}"
        if statement["Action"] != "sts:AssumeRole":
            yield f"{name} allows more than to assume it"


def _statements(node: Node) -> Iterator[Node]:
    """Statements of a role or managed policy, conditional ones included."""
    properties = node["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    if node["Type"] == "AWS::IAM::ManagedPolicy":
        documents.append(properties["PolicyDocument"])
    for document in documents:
        for statement in document["Statement"]:
            yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def _grants(template: Node) -> Iterator[str]:
    holders = _of_type(template, "AWS::IAM::Role") | _of_type(template, "AWS::IAM::ManagedPolicy")
    if other := [kind for kind in ("AWS::IAM::Policy", "AWS::IAM::User") if _of_type(template, kind)]:
        yield f"rights are given in {', '.join(other)}, which no rule here looks at"
    for name, node in holders.items():
        granted: set[str] = set()
        for statement in _statements(node):
            actions = _listed(statement["Action"])
            granted |= set(actions)
            yield from (f"{name} may do {action}" for action in actions if "*" in action)
            for resource in _listed(statement["Resource"]):
                place = resource.get("Fn::Sub", "") if isinstance(resource, dict) else resource
                if (
                    place
                    and place != ENDPOINT
                    and not re.fullmatch(r"\$\{LandingBucket\.Arn\}/(events|recipes|users|errors)/\*", place)
                ):
                    yield f"{name} may reach {place}"
        if granted != GRANTS.get(name):
            yield f"{name} may do {', '.join(sorted(granted))}, unlike tests/edge/template_rules.py says"
    managed = [_properties(template, name).get("ManagedPolicyArns", []) for name in holders]
    logs = {"Fn::Sub": "arn:${AWS::Partition}:iam::aws:policy/service-role/AmazonAPIGatewayPushToCloudWatchLogs"}
    if [arn for arns in managed for arn in arns] != [logs]:
        yield "a role has a policy of AWS's besides the one for API Gateway's logs"
    listing = [each for each in _statements(holders["StorageRole"]) if each["Action"] == "s3:ListBucket"]
    expected = {"StringLike": {"s3:prefix": [f"{prefix}*" for prefix in STAGE_PREFIXES]}}
    if [each.get("Condition") for each in listing] != [expected]:
        yield "StorageRole may list more than the stage"


def _orchestrator(template: Node) -> Iterator[str]:
    written = {}
    for node in template["Resources"]["OrchestratorPolicy"]["Properties"]["PolicyDocument"]["Statement"]:
        condition, statement = node.get("Fn::If", ["", node])[:2]
        for action in _listed(statement["Action"]):
            written[action] = (condition, statement.get("Condition"))
    if written.get("dynamodb:PutItem") != ("", {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["#marker"]}}):
        yield "the orchestrator may put more than #marker"
    if written.get("dynamodb:BatchWriteItem") != ("WritesDirectly", None):
        yield "the orchestrator may write recommendations though Reflect is external_function"
    if written.get("sagemaker:InvokeEndpoint") != ("AsksExternalSource", None):
        yield "the orchestrator may ask an endpoint though none is named"


def _logs(template: Node) -> Iterator[str]:
    for name in _of_type(template, "AWS::Logs::LogGroup"):
        if "RetentionInDays" not in _properties(template, name):
            yield f"{name} keeps its lines for ever"
    if _properties(template, "Function").get("LoggingConfig") != {"LogGroup": {"Ref": "FunctionLogGroup"}}:
        yield "the function logs where nothing is deleted"


def _alarms(template: Node) -> Iterator[str]:
    watched = set()
    for name in _of_type(template, "AWS::CloudWatch::Alarm"):
        alarm = _properties(template, name)
        watched.add(alarm["MetricName"])
        if "AlarmActions" not in alarm:
            yield f"{name} tells nobody"
        if alarm.get("TreatMissingData") != "notBreaching":
            yield f"{name} rings at night, when nothing happens"
    wanted = {
        "DeliveryToS3.DataFreshness",
        "NumberOfNotificationsFailed",
        "Errors",
        "Throttles",
        "WriteThrottleEvents",
        "5XXError",
        "RefusedRows",
    }
    yield from (f"no alarm watches {metric}" for metric in sorted(wanted - watched))
    [metric] = _properties(template, "RefusedRowsFilter")["MetricTransformations"]
    if (metric["MetricName"], metric["MetricValue"]) != ("RefusedRows", "$.refused"):
        yield "RefusedRows is not the count in the function's log line"


def _outputs(template: Node) -> Iterator[str]:
    outputs = template["Outputs"]
    for setting in SETTINGS:
        for name in re.findall(r"output (\w+)", setting.meaning):
            if setting.variable not in outputs.get(name, {}).get("Description", ""):
                yield f"{setting.variable} is said to be output {name}, which does not say so"
