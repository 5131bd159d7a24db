"""Behaviour events in the form in which nearly all of them come, taken from their lines in one pass.

Here: lines that are good beyond doubt (docs/contracts.md): flat, without escapes, every field as it should be.
Not here: any other line, good or bad: those are left, and SQL judges them (sql/stage_parse.sql). What is taken is what
SQL would have staged of the line, to the byte.
"""

from typing import Annotated

import numpy as np

from kurashiru_pipeline.core.columns import BoolTable, Bytes, Ints, Ints32, IntTable32

ByteTable = Annotated[Bytes, 2]
TextTables = Annotated[Ints32, 3]

TEXTS = ("event_name", "user_id", "session_id", "recipe_id", "platform", "app_version", "properties")
"""Columns that are texts, in the order of `texts`."""

# Fields of the contract as `_field` numbers them: the texts in their order, then these.
_EVENT_NAME, _USER_ID, _SESSION_ID, _RECIPE_ID, _PLATFORM, _APP_VERSION, _PROPERTIES, _EVENT_ID, _OCCURRED_AT = range(9)
_TEXT_COUNT = 7
_REQUIRED = 1 << _EVENT_NAME | 1 << _USER_ID | 1 << _EVENT_ID | 1 << _OCCURRED_AT
_KEYS = np.frombuffer(b"event_nameuser_idsession_idrecipe_idplatformapp_versionpropertiesevent_idoccurred_at", np.uint8)
_KEY_ENDS = np.cumsum([10, 7, 10, 9, 8, 11, 10, 8, 11])
_FIRST_PLACES = np.array([7, 0, 1, 2, 3, 8, 4, 5, 6])  # the order in which the fields of an event usually stand

_MAX_BYTES = 1_000_000
_MAX_NAME = _MAX_ID = 64
_MAX_DIGITS = 18  # of a whole number that is written again as it was read
_DASHES = 1 << 8 | 1 << 13 | 1 << 18 | 1 << 23
_QUOTE, _COMMA, _COLON, _BACKSLASH, _OPEN, _CLOSE = 34, 44, 58, 92, 123, 125


def take_events(  # noqa: PLR0917 - arrays
    data: Bytes,
    lines: IntTable32,
    earliest: int,
    latest: int,
    ids: ByteTable,
    moments: Ints,
    texts: TextTables,
    present: BoolTable,
    rows: Ints,
    rest: Ints,
) -> int:
    """Take the good events of N lines; how many there are. Rows of the results beyond that mean nothing.

    Args:
        data: text that the lines lie in; valid UTF-8.
        lines: (N, 4) Arrow views: length in bytes; in the last column the place in `data`, of those over 12 bytes.
        earliest: least `occurred_at` that is accepted, epoch microseconds.
        latest: greatest, likewise.
        ids: (N, 16) event ids.
        moments: (N,) occurred_at, epoch microseconds.
        texts: (TEXTS, N, 4) Arrow views of the texts.
        present: (TEXTS, N) whether a text is not null.
        rows: (N,) line of each event.
        rest: (N,) the lines that were left, in order.
    """
    taken = 0
    for line in range(len(lines)):
        length, begin = lines[line, 0], lines[line, 3]
        if 12 < length <= _MAX_BYTES and _take(
            data, begin, begin + length, earliest, latest, taken, ids, moments, texts, present
        ):
            rows[taken] = line
            taken += 1
        else:
            rest[line - taken] = line
    return taken


def _take(  # noqa: PLR0911, PLR0912, PLR0915, PLR0917 - one pass over a line
    data: Bytes,
    begin: int,
    end: int,
    earliest: int,
    latest: int,
    row: int,
    ids: ByteTable,
    moments: Ints,
    texts: TextTables,
    present: BoolTable,
) -> bool:
    """Whether data[begin:end] is an event that was taken into `row`."""
    for text in range(_TEXT_COUNT):
        present[text, row] = False
        for part in range(4):
            texts[text, row, part] = 0
    seen = found = place = 0
    at = _skip_space(data, begin, end)
    if at >= end or data[at] != _OPEN:
        return False
    while True:
        at = _skip_space(data, at + 1, end)
        if at >= end or data[at] != _QUOTE:
            return False
        key = at + 1
        at = _text_end(data, key, end)
        if at < 0:
            return False
        field = _field(data, key, at, place)
        place += 1
        if field >= 0:
            if seen >> field & 1:
                return False
            seen |= 1 << field
        at = _skip_space(data, at + 1, end)
        if at >= end or data[at] != _COLON:
            return False
        at = _skip_space(data, at + 1, end)
        if at >= end:
            return False
        if data[at] == _QUOTE:
            first = at + 1
            stop = _text_end(data, first, end)
            if stop < 0:
                return False
            if field == _EVENT_ID:
                if not _take_uuid(data, first, stop, ids, row):
                    return False
                found |= 1 << field
            elif field == _OCCURRED_AT:
                moment = _moment(data, first, stop, earliest - 1)
                if moment < earliest or moment > latest:
                    return False
                moments[row] = moment
                found |= 1 << field
            elif field == _PROPERTIES:
                return False
            elif field >= 0:
                if field == _EVENT_NAME and not 0 < stop - first <= _MAX_NAME:
                    return False
                if field in (_USER_ID, _RECIPE_ID) and not _is_id(data, first, stop):
                    return False
                _put_text(data, first, stop, texts, field, row)
                present[field, row] = True
                found |= 1 << field
            at = stop + 1
        elif data[at] == _OPEN and field == _PROPERTIES:
            stop = _object_end(data, at, end)
            if stop < 0:
                return False
            _put_text(data, at, stop, texts, field, row)
            present[field, row] = True
            at = stop
        elif _is_null(data, at, end):
            at += 4
        else:
            return False
        at = _skip_space(data, at, end)
        if at >= end:
            return False
        if data[at] == _CLOSE:
            break
        if data[at] != _COMMA:
            return False
    return _skip_space(data, at + 1, end) == end and found & _REQUIRED == _REQUIRED


def _skip_space(data: Bytes, at: int, end: int) -> int:
    while at < end and (data[at] == 32 or data[at] == 9 or data[at] == 13):
        at += 1
    return at


def _text_end(data: Bytes, at: int, end: int) -> int:
    """Where a string's closing quote is; -1 if there is none, or an escape, a control character or U+FFFD before it."""
    while at < end:
        byte = data[at]
        if byte == _QUOTE:
            return at
        if byte < 32 or byte == _BACKSLASH:
            return -1
        if byte == 0xEF and data[at + 1] == 0xBF and data[at + 2] == 0xBD:
            return -1
        at += 1
    return -1


def _field(data: Bytes, begin: int, end: int, place: int) -> int:
    """The number of the field of that name, -1 for another name; `place` is how many fields stood before it."""
    if place < 9:
        likely = int(_FIRST_PLACES[place])
        if _is_key(data, begin, end, likely):
            return likely
    for field in range(9):
        if _is_key(data, begin, end, field):
            return field
    return -1


def _is_key(data: Bytes, begin: int, end: int, field: int) -> bool:
    first = _KEY_ENDS[field - 1] if field else 0
    if _KEY_ENDS[field] - first != end - begin:
        return False
    at = 0
    while at < end - begin and data[begin + at] == _KEYS[first + at]:
        at += 1
    return at == end - begin


def _is_null(data: Bytes, at: int, end: int) -> bool:
    return at + 4 <= end and data[at] == 110 and data[at + 1] == 117 and data[at + 2] == 108 and data[at + 3] == 108


def _is_digit(byte: int) -> bool:
    return 48 <= byte <= 57


def _is_id(data: Bytes, begin: int, end: int) -> bool:
    for at in range(begin, end):
        byte = data[at]
        if not (48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122 or byte in (45, 95)):
            return False
    return 0 < end - begin <= _MAX_ID


def _put_text(data: Bytes, begin: int, end: int, texts: TextTables, text: int, row: int) -> None:  # noqa: PLR0917
    """The Arrow view of data[begin:end]: its length; then the text itself, or its first bytes, a buffer and a place."""
    length = end - begin
    texts[text, row, 0] = length
    words = 1 if length > 12 else 3
    for word in range(words):
        packed = 0
        for byte in range(4):
            at = 4 * word + byte
            if at < length:
                packed |= int(data[begin + at]) << (8 * byte)
        texts[text, row, 1 + word] = np.int32(packed)
    if length > 12:
        texts[text, row, 3] = begin


def _take_uuid(data: Bytes, begin: int, end: int, ids: ByteTable, row: int) -> bool:
    if end - begin != 36:
        return False
    half = 0
    for place in range(36):
        byte = int(data[begin + place])
        if _DASHES >> place & 1:
            if byte != 45:
                return False
            continue
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 97 <= byte <= 102:
            digit = byte - 87
        elif 65 <= byte <= 70:
            digit = byte - 55
        else:
            return False
        if half & 1:
            ids[row, half >> 1] |= digit
        else:
            ids[row, half >> 1] = digit << 4
        half += 1
    return True


def _number(data: Bytes, begin: int, count: int) -> int:
    """`count` digits as a number; -1 if one is none."""
    number = 0
    for at in range(begin, begin + count):
        if not _is_digit(data[at]):
            return -1
        number = 10 * number + int(data[at]) - 48
    return number


def _moment(data: Bytes, begin: int, end: int, otherwise: int) -> int:  # noqa: PLR0911 - one a rule
    """Epoch microseconds of `YYYY-MM-DDTHH:MM:SS[.ffffff]Z`; `otherwise` if it is no such moment."""
    length = end - begin
    if length != 20 and not 22 <= length <= 27:
        return otherwise
    if data[begin + 4] != 45 or data[begin + 7] != 45 or data[begin + 10] != 84:
        return otherwise
    if data[begin + 13] != _COLON or data[begin + 16] != _COLON or data[end - 1] != 90:
        return otherwise
    year, month, day = _number(data, begin, 4), _number(data, begin + 5, 2), _number(data, begin + 8, 2)
    hour, minute, second = _number(data, begin + 11, 2), _number(data, begin + 14, 2), _number(data, begin + 17, 2)
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= _days_in(year, month):
        return otherwise
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 59:
        return otherwise
    micros = 0
    if length > 20:
        digits = length - 21
        micros = _number(data, begin + 20, digits)
        if data[begin + 19] != 46 or micros < 0:
            return otherwise
        for _ in range(6 - digits):
            micros *= 10
    return ((_days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second) * 1_000_000 + micros


def _days_in(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date in the Gregorian calendar; its year is counted from March."""
    from_march = (month + 9) % 12
    years = year - (1 if month <= 2 else 0)
    return years * 365 + years // 4 - years // 100 + years // 400 + (from_march * 153 + 2) // 5 + day - 719_469


def _object_end(data: Bytes, at: int, end: int) -> int:
    """Where a flat object without spaces ends, if it would be written again as it stands; otherwise -1."""
    at += 1
    if at < end and data[at] == _CLOSE:
        return at + 1
    while at < end and data[at] == _QUOTE:
        at = _text_end(data, at + 1, end) + 1
        if at <= 0 or at >= end or data[at] != _COLON:
            return -1
        at = _scalar_end(data, at + 1, end)
        if at < 0 or at >= end:
            return -1
        if data[at] == _CLOSE:
            return at + 1
        if data[at] != _COMMA:
            return -1
        at += 1
    return -1


def _scalar_end(data: Bytes, at: int, end: int) -> int:
    """Where a string, null or a whole number of ordinary size ends; -1 for anything else."""
    if at >= end:
        return -1
    if data[at] == _QUOTE:
        stop = _text_end(data, at + 1, end)
        return stop + 1 if stop >= 0 else -1
    if _is_null(data, at, end):
        return at + 4
    first = at + 1 if data[at] == 45 else at
    stop = first
    while stop < end and _is_digit(data[stop]):
        stop += 1
    if not 0 < stop - first <= _MAX_DIGITS or (data[first] == 48 and (stop - first > 1 or first > at)):
        return -1
    return stop
