"""SQL text before it is parsed: statements of a script, and what a statement starts with.

Here: splitting and scanning that respect quotes, dollar quotes and comments.
Not here: any meaning of a statement.
"""

import re
from collections.abc import Iterator

# A quoted string ('' and \\' escape), a quoted name, a dollar-quoted text, a comment.
_OPAQUE = re.compile(
    r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"]|\"\")*\"|\$\$.*?\$\$|--[^\n]*|/\*.*?\*/",
    re.DOTALL,
)
_COMMENT = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)+", re.DOTALL)


def split(text: str) -> list[str]:
    """Statements of a script, without their semicolons; a piece that is only comment is none."""
    statements = []
    start = 0
    for position, character in plain_characters(text):
        if character == ";":
            statements.append(text[start:position])
            start = position + 1
    statements.append(text[start:])
    return [statement.strip() for statement in statements if without_leading_comments(statement)]


def without_leading_comments(text: str) -> str:
    """The statement from its first word on, without white space at the end."""
    match = _COMMENT.match(text)
    return text[match.end() :].rstrip() if match else text.rstrip()


def without_comments(text: str) -> str:
    """The statement without any comment, and without white space around it."""
    return _OPAQUE.sub(lambda match: " " if match[0].startswith(("--", "/*")) else match[0], text).strip()


def plain_characters(text: str) -> Iterator[tuple[int, str]]:
    """(position, character) of everything outside quotes and comments."""
    position = 0
    for match in _OPAQUE.finditer(text):
        yield from enumerate(text[position : match.start()], position)
        position = match.end()
    yield from enumerate(text[position:], position)


def replace_plain(text: str, pattern: str, replacement: str) -> str:
    """`re.sub` (ignoring case) on everything outside quotes and comments."""
    pieces = []
    position = 0
    for match in _OPAQUE.finditer(text):
        pieces += [re.sub(pattern, replacement, text[position : match.start()], flags=re.IGNORECASE), match[0]]
        position = match.end()
    pieces.append(re.sub(pattern, replacement, text[position:], flags=re.IGNORECASE))
    return "".join(pieces)


def closing_bracket(text: str, opening: int) -> int:
    """Position of the bracket that closes the one at `opening`."""
    depth = 0
    for position, character in plain_characters(text):
        if position < opening:
            continue
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    message = f"bracket at {opening} is not closed: {text[opening:][:80]}"
    raise ValueError(message)
