"""The DynamoDB item of docs/contracts.md: built, measured, hashed and read back.

Here: pure functions between a ranked list and DynamoDB's attribute map.
Not here: connections, retries or tables (`serving/dynamodb.py`), and what to recommend.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

Item = dict[str, dict[str, str | bool]]
"""DynamoDB's low-level attribute map: attribute name -> {type: value}."""

KEY = "user_id"
DEFAULT_USER = "#default"
IMPERSONAL_PATTERN = "#default|#segment:[a-z_]{1,32}:[a-z_]{1,32}"
"""Keys of lists for people without one of their own (segments.py says which there are)."""
MARKER_USER = "#marker"
MAX_ITEM_BYTES = 1024
MAX_ANCHOR_CHARACTERS = 64

CODE_OF_KIND = {
    "viewed": "v",
    "favorited": "f",
    "cooked": "c",
    "listed": "s",
    "ingredient": "i",
    "taste": "t",
    "new": "n",
}
_KIND_OF_CODE = {code: kind for kind, code in CODE_OF_KIND.items()}
CODE_OF_PLAIN = {"popular": "p", "external": "x"}  # reasons that name nothing
_PLAIN_OF_CODE = {code: reason for reason, code in CODE_OF_PLAIN.items()}

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all times here are naive UTC
_SECOND = timedelta(seconds=1)
_NUMBER = re.compile(r"(-?)0*(\d*)(?:\.(\d*))?(?:[eE][+-]?\d+)?")


class Entry(NamedTuple):
    """One recommended recipe; the score is in thousandths' precision."""

    recipe_id: str
    reason: str
    score: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What one item says: a ranked list, or a tombstone when `is_deleted`. Times are naive UTC."""

    user_id: str
    version: int
    entries: tuple[Entry, ...]
    algorithm: str
    generated_at: datetime
    expires_at: datetime
    is_deleted: bool = False

    def is_current(self, now: datetime) -> bool:
        """Whether a reader may serve it: no tombstone, and not expired (DynamoDB deletes late)."""
        return not self.is_deleted and now < self.expires_at


def build_item(
    user_id: str,
    *,
    recipe_ids: Sequence[str],
    reasons: Sequence[str],
    scores: Sequence[float],
    algorithm: str,
    version: int,
    generated_at: datetime,
    expires_at: datetime,
) -> Item:
    """Item of a ranked list, at most MAX_ITEM_BYTES: recipes that do not fit are dropped from the tail.

    Args:
        user_id: key, of the form in the contract, or that of a list for people without one.
        recipe_ids: ids in rank order, at least one.
        reasons: one for each recipe: `viewed:<id>`, `favorited:<id>`, `cooked:<id>`, `listed:<id>`,
            `ingredient:<name>`, `taste:<tag>`, `new:<tag>`, `external` or `popular`. What follows the colon is cut
            after MAX_ANCHOR_CHARACTERS.
        scores: one finite Python number for each recipe, kept to thousandths.
        algorithm: model version, or `popular`.
        version: the micro-batch that made the list.
        generated_at: naive UTC, kept to seconds.
        expires_at: naive UTC, kept to seconds.

    Raises:
        ValueError: lists of different lengths, an empty list, an unknown reason, an id with a comma, a
            score that is not finite, or not even one recipe fits.
    """
    count = len(recipe_ids)
    if not count or count != len(reasons) or count != len(scores):
        message = (
            f"item of user {user_id!r}: needs one reason and one score a recipe, at least one; "
            f"got {count} recipes, {len(reasons)} reasons, {len(scores)} scores"
        )
        raise ValueError(message)
    try:
        thousandths = [str(round(1000 * score)) for score in scores]
        codes, anchors = _encode_reasons(reasons)
    except (ValueError, OverflowError) as error:
        message = f"item of user {user_id!r}: {error}"
        raise ValueError(message) from error
    item: Item = {
        KEY: {"S": user_id},
        "version": {"N": str(version)},
        "recipe_ids": {"S": ",".join(recipe_ids)},
        "reasons": {"S": ",".join(codes)},
        "anchors": {"S": ",".join(anchors)},
        "scores": {"S": ",".join(thousandths)},
        "algorithm": {"S": algorithm},
        "generated_at": {"N": str((generated_at - _EPOCH) // _SECOND)},
        "expires_at": {"N": str((expires_at - _EPOCH) // _SECOND)},
    }
    if recipe_count(item) != count or not all(recipe_ids):
        message = f"item of user {user_id!r}: a recipe id is empty or has a comma in {list(recipe_ids)!r}"
        raise ValueError(message)
    excess = item_bytes(item) - MAX_ITEM_BYTES
    if excess > 0:
        lists = ("recipe_ids", "reasons", "anchors", "scores")
        budget = sum(_value_bytes(item[name]) for name in lists) - excess
        kept, kept_anchors = _fitting(recipe_ids, codes, thousandths, anchors, budget)
        if not kept:
            message = f"item of user {user_id!r}: not one recipe fits into {MAX_ITEM_BYTES} bytes"
            raise ValueError(message)
        item["recipe_ids"] = {"S": ",".join(recipe_ids[:kept])}
        item["reasons"] = {"S": ",".join(codes[:kept])}
        item["anchors"] = {"S": ",".join(anchors[:kept_anchors])}
        item["scores"] = {"S": ",".join(thousandths[:kept])}
    return item


def build_tombstone(
    user_id: str, *, algorithm: str, version: int, generated_at: datetime, expires_at: datetime
) -> Item:
    """Item saying that the user has no list any more: readers fall back. See `build_item`."""
    return {
        KEY: {"S": user_id},
        "version": {"N": str(version)},
        "algorithm": {"S": algorithm},
        "generated_at": {"N": str((generated_at - _EPOCH) // _SECOND)},
        "expires_at": {"N": str((expires_at - _EPOCH) // _SECOND)},
        "deleted": {"BOOL": True},
    }


def decode_item(item: Item) -> Recommendation:
    """What an item says, whoever wrote it.

    Raises:
        ValueError: the item is not of the contract's form.
    """
    try:
        is_deleted = item.get("deleted", {}).get("BOOL") is True
        return Recommendation(
            user_id=_text(item, KEY),
            version=_number(item, "version"),
            entries=() if is_deleted else tuple(_entries(item)),
            algorithm=_text(item, "algorithm"),
            generated_at=_EPOCH + _number(item, "generated_at") * _SECOND,
            expires_at=_EPOCH + _number(item, "expires_at") * _SECOND,
            is_deleted=is_deleted,
        )
    except (KeyError, IndexError, ValueError, OverflowError) as error:
        message = f"item {item.get(KEY)} is not of the form in docs/contracts.md: {error!r}"
        raise ValueError(message) from error


def recipe_count(item: Item) -> int:
    """Recipes in a built item: fewer than were given if the tail was dropped; 0 for a tombstone."""
    return _text(item, "recipe_ids").count(",") + 1 if "recipe_ids" in item else 0


def item_bytes(item: Item) -> int:
    """Bytes DynamoDB counts for an item of strings, numbers and booleans.

    Attribute name and string: UTF-8 bytes. Boolean: 1. Number: 1, and 1 for every two significant digits,
    and 1 if negative; zeros at both ends do not count.
    Source: Amazon DynamoDB Developer Guide, "DynamoDB item sizes and formats".

    Raises:
        ValueError: another attribute type, a number that is none, or text that is not valid Unicode.
    """
    return sum(_utf8_bytes(name) + _value_bytes(value) for name, value in item.items())


def number_bytes(number: str) -> int:
    """Bytes DynamoDB counts for a number, see `item_bytes`.

    Raises:
        ValueError: it is none.
    """
    if number.isdecimal():
        return (len(number.strip("0")) + 1) // 2 + 1
    match = _NUMBER.fullmatch(number)
    if match is None or not any(character.isdigit() for character in number):
        message = f"{number!r} is not a number"
        raise ValueError(message)
    sign, whole, fraction = match.groups(default="")
    digits = (whole + fraction).strip("0")
    return (len(digits) + 1) // 2 + 1 + len(sign)


def content_hash(recipe_ids: Sequence[str], reasons: Sequence[str]) -> str:
    """32 hexadecimal digits of what a user would see: the list and its reasons.

    Times, version and scores do not count, so an unchanged list is not sent again.
    """
    import orjson  # noqa: PLC0415 - not in the Lambda function, which builds items and hashes none

    return blake2b(orjson.dumps((list(recipe_ids), list(reasons))), digest_size=16).hexdigest()


def supersedes(new_version: int, old_version: int) -> bool:
    """Whether an item may replace another: versions never go back, and sending one again is harmless."""
    return new_version >= old_version


def _encode_reasons(reasons: Iterable[str]) -> tuple[list[str], list[str]]:
    """Codes of the reasons, and their anchors in order of first use, escaped."""
    position: dict[str, int] = {}
    code_of = dict(CODE_OF_PLAIN)
    codes = []
    for reason in reasons:
        code = code_of.get(reason)
        if code is None:
            kind, _, anchor = reason.partition(":")
            letter = CODE_OF_KIND.get(kind)
            if letter is None or not anchor:
                known = f"{', '.join(CODE_OF_PLAIN)}, {', '.join(CODE_OF_KIND)} (with :...)"
                message = f"unknown reason {reason!r}; known: {known}"
                raise ValueError(message)
            index = position.setdefault(anchor[:MAX_ANCHOR_CHARACTERS], len(position))
            code = code_of[reason] = f"{letter}{index}"
        codes.append(code)
    return codes, [anchor.replace("%", "%25").replace(",", "%2C") for anchor in position]


def _fitting(
    recipe_ids: Sequence[str],
    codes: Sequence[str],
    thousandths: Sequence[str],
    anchors: Sequence[str],
    budget: int,
) -> tuple[int, int]:
    """How many recipes, and anchors for them, fit when the four joined lists may take `budget` bytes."""
    used_anchors = 0
    budget += 3  # the first recipe has no comma before its id, code and score
    for kept, (recipe_id, code, score) in enumerate(zip(recipe_ids, codes, thousandths, strict=True)):
        budget -= _utf8_bytes(recipe_id) + len(code) + len(score) + 3
        is_new_anchor = code[1:] == str(used_anchors)
        if is_new_anchor:
            budget -= _utf8_bytes(anchors[used_anchors]) + (used_anchors > 0)
        if budget < 0:
            return kept, used_anchors
        used_anchors += is_new_anchor
    return len(recipe_ids), used_anchors


def _entries(item: Item) -> Iterable[Entry]:
    anchors = [anchor.replace("%2C", ",").replace("%25", "%") for anchor in _text(item, "anchors").split(",")]
    columns = (_text(item, name).split(",") for name in ("recipe_ids", "reasons", "scores"))
    for recipe_id, code, score in zip(*columns, strict=True):
        reason = _PLAIN_OF_CODE.get(code) or f"{_KIND_OF_CODE[code[:1]]}:{anchors[int(code[1:])]}"
        yield Entry(recipe_id, reason, int(score) / 1000)


def _text(item: Item, name: str) -> str:
    return str(item[name]["S"])


def _number(item: Item, name: str) -> int:
    return int(item[name]["N"])


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _value_bytes(value: dict[str, str | bool]) -> int:
    for kind, content in value.items():
        if kind == "S" and isinstance(content, str):
            return _utf8_bytes(content)
        if kind == "N" and isinstance(content, str):
            return number_bytes(content)
        if kind == "BOOL":
            return 1
    message = f"{value!r} is no string, number or boolean of DynamoDB"
    raise ValueError(message)
