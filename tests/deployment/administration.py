"""What an account's administration would answer, worked out from the statements that the stand-in only recorded.

Here: SHOW GRANTS, WAREHOUSES, TASKS, USER FUNCTIONS, DESCRIBE INTEGRATION, the topic's policy, as Snowflake gives them.
Not here: whether a grant is enforced: the stand-in lets every role do everything.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.snowflake.results import Result
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

_GRANT = re.compile(
    r"(?P<verb>grant|revoke) (?P<privileges>[\w, ]+?) on (?:(?P<scope>all|future) )?(?P<kind>[a-z ]+?)"
    r"(?: in schema)? (?P<name>[\w.]+(?:\(.*\))?) (?:to|from) role (?P<role>\w+).*",
    re.IGNORECASE | re.DOTALL,
)
_ROLE = re.compile(r"(?P<verb>grant|revoke) role (?P<name>\w+) (?:to|from) role (?P<role>\w+)", re.IGNORECASE)
_WAREHOUSE = re.compile(r"(?P<verb>create|alter|drop) warehouse (?:if (?:not )?exists )?(?P<name>\w+)", re.IGNORECASE)
_SHOW_GRANTS = re.compile(r"show grants to role (?P<role>\w+)", re.IGNORECASE)
_SHOW_WAREHOUSES = re.compile(r"show warehouses like '(?P<name>\w+)'", re.IGNORECASE)
_TASK = re.compile(
    r"(?P<verb>create|alter|drop) task (?:if (?:not )?exists )?(?P<schema>\w+)\.(?P<name>\w+)\s*(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SHOW_TASKS = re.compile(r"show tasks in schema (?P<schema>\w+)", re.IGNORECASE)
_SHOW_FUNCTIONS = re.compile(r"show user functions in schema (?P<schema>\w+)", re.IGNORECASE)
_DESCRIBE = re.compile(r"describe integration (?P<name>\w+)", re.IGNORECASE)
_TOPIC_POLICY = re.compile(r"select system\$get_aws_sns_iam_policy\('(?P<topic>[^']+)'\) as policy", re.IGNORECASE)
_SINGULAR = {"tables": "table", "streams": "stream", "views": "view"}


@dataclass
class Administration:
    """The account's administration; `functions` are those of the kernel, for tests to add."""

    account: StandIn
    functions: list[str] = field(default_factory=list)

    def answer(self, session: Connection, sql: str) -> Result | None:  # noqa: PLR0911 - one a kind
        """The result of a statement that is for the administration; None if it is none."""
        if match := _SHOW_GRANTS.fullmatch(sql):
            names = ("created_on", "privilege", "granted_on", "name", "granted_to", "grantee_name")
            role = match["role"].upper()
            rows = [("", *grant[1:], "ROLE", role) for grant in sorted(self.grants(session)) if grant[0] == role]
            return Result.of_rows(names, rows)
        if match := _SHOW_WAREHOUSES.fullmatch(sql):
            return self.warehouses(match["name"].upper())
        if match := _SHOW_TASKS.fullmatch(sql):
            return self.tasks(match["schema"].upper())
        if match := _SHOW_FUNCTIONS.fullmatch(sql):
            return Result.of_rows(("name", "schema_name"), [(name, match["schema"]) for name in self.functions])
        if match := _DESCRIBE.fullmatch(sql):
            kind = "STORAGE" if match["name"].endswith("_STORAGE") else "API"
            rows = [
                (f"{kind}_AWS_IAM_USER_ARN", "String", "arn:aws:iam::000000000000:user/snowflake", ""),
                (f"{kind}_AWS_EXTERNAL_ID", "String", f"{kind.lower()}-external-id", ""),
                ("ENABLED", "Boolean", "true", "false"),
            ]
            return Result.of_rows(("property", "property_type", "property_value", "property_default"), rows)
        if match := _TOPIC_POLICY.fullmatch(sql):
            statement = {
                "Sid": "1",
                "Effect": "Allow",
                "Principal": {"AWS": ["arn:aws:iam::000000000000:user/snowflake-topic"]},
                "Action": ["sns:Subscribe"],
                "Resource": [match["topic"]],
            }
            policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
            return Result.of_rows(("policy",), [(policy,)])
        return None

    def grants(self, session: Connection) -> set[tuple[str, str, str, str]]:
        """(role, privilege, kind, full name) of all grants that were not revoked."""
        held: set[tuple[str, str, str, str]] = set()
        for statement in self.account.recorded:
            for grant in self._grants(session, statement):
                (held.discard if statement.lower().startswith("revoke") else held.add)(grant)
        return held

    def _grants(self, session: Connection, statement: str) -> Iterator[tuple[str, str, str, str]]:
        if match := _ROLE.fullmatch(statement):
            yield match["role"].upper(), "USAGE", "ROLE", match["name"].upper()
        elif (match := _GRANT.fullmatch(statement)) and (match["scope"] or "").lower() != "future":
            names = self._objects(session, match) if match["scope"] else [self._shown(match["kind"], match["name"])]
            kind = _SINGULAR.get(match["kind"].lower(), match["kind"]).upper()
            for privilege in match["privileges"].split(", "):
                for name in names:
                    yield match["role"].upper(), privilege.upper(), kind, name

    def _objects(self, session: Connection, match: re.Match[str]) -> list[str]:
        with session.account.connect(database=self.account.database) as asking:
            shown = asking.cursor().execute(f"show {match['kind']} in schema {match['name']}").fetchall()
        return [f"{self.account.database}.{match['name']}.{row[1]}".upper() for row in shown]

    def _shown(self, kind: str, name: str) -> str:
        if kind.lower() in {"database", "warehouse", "integration"}:
            return name.upper()
        start, bracket, types = f"{self.account.database}.{name}".upper().partition("(")
        # SHOW GRANTS quotes a function with its arguments' names and its result.
        return start if not bracket else f'{start.rpartition(".")[0]}."{start.rpartition(".")[2]}(A {types}:VARIANT"'

    def warehouses(self, wanted: str) -> Result:
        found: dict[str, tuple[Any, ...]] = {}
        for statement in self.account.recorded:
            match = _WAREHOUSE.match(statement)
            if not match:
                continue
            name = match["name"].upper()
            if match["verb"].lower() == "drop":
                found.pop(name, None)
                continue
            seconds = re.search(r"auto_suspend = (\w+)", statement)
            size = re.search(r"warehouse_size = '(\w+)'", statement)
            _, old_size, old_seconds = found.get(name, (name, None, None))
            new = None if seconds is None or seconds[1] == "null" else int(seconds[1])
            found[name] = (name, size[1] if size else old_size, new if seconds else old_seconds)
        return Result.of_rows(("name", "size", "auto_suspend"), [row for row in found.values() if row[0] == wanted])

    def tasks(self, schema: str) -> Result:
        """Tasks are made suspended; `create if not exists` of one that is there changes nothing."""
        found: dict[str, tuple[Any, ...]] = {}
        for statement in self.account.recorded:
            match = _TASK.fullmatch(statement)
            if not match or match["schema"].upper() != schema:
                continue
            name, rest = match["name"].upper(), match["rest"].lower()
            if match["verb"].lower() == "drop":
                found.pop(name, None)
            elif match["verb"].lower() == "create":
                found.setdefault(name, (name, schema, "suspended", None))
            else:
                suspended = (name, schema, "suspended", "USER_SUSPENDED")
                found[name] = (name, schema, "started", found[name][3]) if rest == "resume" else suspended
        return Result.of_rows(("name", "schema_name", "state", "last_suspended_reason"), list(found.values()))


def install(account: StandIn) -> Administration:
    """Let the account's sessions ask the administration first."""
    administration = Administration(account)
    account.answer_first.append(administration.answer)
    return administration
