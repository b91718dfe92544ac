"""Parsing JSON that is slightly off: one bad string or number must not hide the rest of a response.

`orjson` refuses a whole document for half a surrogate pair (`"\\ud83d"`), bytes that are not UTF-8, a number beyond a
double and nesting beyond 1,024 levels. The standard library, ten times slower, reads such a document.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

REPLACEMENT = "\ufffd"
"""Stands for text that is not valid Unicode."""
_DEEPEST = 100  # levels that are kept as JSON; deeper values become text
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


def loads(content: bytes) -> tuple[Any, bool]:
    """The JSON in `content`, and whether any value had to be replaced. Raises `ValueError` if it is not JSON.

    Invalid Unicode becomes U+FFFD, numbers beyond a double and values nested too deeply become text.
    """
    try:
        return orjson.loads(content), False
    except orjson.JSONDecodeError as error:
        try:
            text = _flattened(content.decode(errors="replace"))
            value = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_refuse)
            valid = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
            return orjson.loads(valid.decode("utf-16-le", "replace")), True
        except (ValueError, RecursionError):
            raise error from None


def _flattened(text: str) -> str:
    """`text` with each value that is nested too deeply as a JSON string."""
    parts: list[str] = []
    depth = copied = start = 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("[", "{"):
            depth += 1
            if depth == _DEEPEST + 1:
                start = token.start()
        elif token[0] in ("]", "}"):
            if depth == _DEEPEST + 1:
                parts += [text[copied:start], json.dumps(text[start : token.end()])]
                copied = token.end()
            depth -= 1
    return "".join([*parts, text[copied:]])


def _integer(digits: str) -> int | float | str:
    number = int(digits) if len(digits) <= 20 else 2**64
    return number if -(2**63) <= number < 2**64 else _number(digits)  # beyond 64 bits a double, as with orjson


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")
