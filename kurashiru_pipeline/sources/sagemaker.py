"""A model behind an Amazon SageMaker endpoint: JSON lines there and back, many users a request.

Here: the client, the form of requests and answers (docs/contracts.md), and errors in words.
Not here: how many requests, in how much time (recommender.py), or the model.
"""

from threading import Lock
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import ClientError

from kurashiru_pipeline.core.columns import lists
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.serving.dynamodb import is_loopback
from kurashiru_pipeline.sources.recommender import SUGGESTION_SCHEMA, ExternalRecommender

CONTENT_TYPE = "application/jsonlines"
MAX_ANSWER_BYTES = 6 * 1024 * 1024
"""What InvokeEndpoint gives at most."""


class SageMakerRecommender(ExternalRecommender):
    """A real-time or serverless endpoint of SageMaker.

    Args:
        endpoint: its name.
        region: its AWS region.
        url: address of SageMaker's runtime, "" for the region's own. One on this machine is a stand-in: it gets fixed
            credentials and no proxy; everything else AWS's default chain of credentials.
        answer_seconds: an attempt is given up after so long without an answer.
        users_per_request: users named in one request.
        concurrency: requests under way at a time.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        region: str,
        url: str,
        answer_seconds: float,
        users_per_request: int,
        concurrency: int,
    ) -> None:
        super().__init__(users_per_request=users_per_request, concurrency=concurrency)
        self._endpoint = endpoint
        self._region = region
        self._url = url
        self._answer_seconds = answer_seconds
        self._client: Any = None
        self._connecting = Lock()

    @property
    def name(self) -> str:
        return f"sagemaker:{self._endpoint}"

    def request(self, users: pa.Table, count: int) -> pa.Table:
        question = b"".join(
            orjson.dumps({**user, "count": count}, option=orjson.OPT_APPEND_NEWLINE) for user in users.to_pylist()
        )
        try:
            answer = self._connected().invoke_endpoint(
                EndpointName=self._endpoint, ContentType=CONTENT_TYPE, Accept=CONTENT_TYPE, Body=question
            )
        except ClientError as error:
            raise KurashiruError(_explain(error)) from error
        with answer["Body"] as stream:
            body = stream.read(MAX_ANSWER_BYTES + 1)
        if len(body) > MAX_ANSWER_BYTES:
            raise KurashiruError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
        return read_answers(body)

    def _connected(self) -> Any:
        """The client, made by whichever thread comes first: finding credentials may take time, or fail."""
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        import boto3  # noqa: PLC0415 - 0.2 s, only for who connects
        from botocore.config import Config  # noqa: PLC0415

        is_local = bool(self._url) and is_loopback(self._url)
        return boto3.session.Session().client(
            "sagemaker-runtime",
            region_name=self._region,
            endpoint_url=self._url or None,
            aws_access_key_id="local" if is_local else None,
            aws_secret_access_key="local" if is_local else None,
            config=Config(
                connect_timeout=min(1.0, self._answer_seconds),
                read_timeout=self._answer_seconds,
                max_pool_connections=self._concurrency,
                proxies={} if is_local else None,
                retries={"mode": "standard", "total_max_attempts": 2},
                tcp_keepalive=True,
            ),
        )


def read_answers(body: bytes) -> pa.Table:
    """SUGGESTION_SCHEMA from the body of an answer. (Not by pyarrow.json: a line `null` ends the process.)

    Raises:
        KurashiruError: a line is not of the form in docs/contracts.md; says which, and shows nothing of it.
    """
    user_ids: list[Any] = []
    sizes: list[int] = []
    recipe_ids: list[Any] = []
    scores: list[Any] = []
    for number, line in enumerate(body.splitlines(), start=1):
        user_id, listed, scored = _fields(number, line)
        user_ids.append(user_id)
        sizes.append(len(listed))
        recipe_ids += listed
        scores += scored
    try:
        names, ids, values = (
            pa.array(user_ids, pa.string()),
            pa.array(recipe_ids, pa.string()),
            pa.array(scores, pa.float64()),
        )
    except (TypeError, ValueError) as error:
        raise KurashiruError("the answer is malformed: an id is no string, or a score no number") from error
    if names.null_count + ids.null_count + values.null_count or (len(values) and pc.min(values).as_py() < 0):
        raise KurashiruError("the answer is malformed: an id or a score is null, or a score is negative")
    rows = np.repeat(np.arange(len(sizes)), sizes)
    columns: list[Any] = [names, lists(rows, len(sizes), ids), lists(rows, len(sizes), values)]
    return pa.Table.from_arrays(columns, schema=SUGGESTION_SCHEMA)


def _fields(number: int, line: bytes) -> tuple[Any, list[Any], list[Any]]:
    """User, recipes and scores of a line; their elements are not looked at."""
    try:
        answer = orjson.loads(line)
        user_id, recipe_ids, scores = (answer[name] for name in SUGGESTION_SCHEMA.names)
    except (TypeError, ValueError, KeyError) as error:
        raise KurashiruError(
            f"line {number} of the answer is no object with {', '.join(SUGGESTION_SCHEMA.names)}"
        ) from error
    if not (isinstance(recipe_ids, list) and isinstance(scores, list) and len(recipe_ids) == len(scores)):
        raise KurashiruError(f"line {number} of the answer: recipe_ids and scores are no lists of one length")
    return user_id, recipe_ids, scores


def _explain(error: ClientError) -> str:
    """An error of the service. Of the model's own answer only the status: its text may name users."""
    code = error.response["Error"].get("Code", "")
    if code == "ModelError":
        status = error.response.get("OriginalStatusCode")
        return f"ModelError: the model answered {status}; its log is {error.response.get('LogStreamArn')}"
    return f"{code}: {error.response['Error'].get('Message', '')}"
