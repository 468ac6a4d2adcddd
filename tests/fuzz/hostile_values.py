"""Invalid and extreme values, and functions that put them into JSON documents and response bodies.

The values are JSON as bytes, because many of them are invalid or have no counterpart in Python.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

DEEP = 100_000
LONG = 1_000_000
CANARY = "CANARY-of-a-customer"
"""A text that stands for customer data."""

JsonPath = tuple[str | int, ...]
"""Keys and indices that lead to a value in a document."""

NUMBERS = (
    *(
        b"0",
        b"-0",
        b"-0.0",
        b"-1",
        b"1.5",
        b"1e400",
        b"-1e400",
        b"1e308",
        b"5e-324",
        b"1e18",
        b"-1e18",
        b"1e11",
        b"1e12",
    ),
    *(b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616"),
    *(b"2147483648", b"253402300800", b"253402300799999", b"9" * 30, b"9" * 309, b"9" * 5000, b"-" + b"9" * 5000),
    *(b"0." + b"3" * 5000, b"1e", b"01", b"+1", b".5", b"0x10", b"NaN", b"Infinity", b"-Infinity"),
)
TEXTS = tuple(
    json.dumps(text).encode()
    for text in (
        *(
            "",
            " ",
            "\0",
            "a\0b",
            "\n",
            "a\nb",
            "\r\n",
            "\t",
            '"',
            "\\",
            "\\n",
            "}",
            '"} 1\nevil 1',
            "# EOF\n",
            "\x1f",
            "\x7f",
        ),
        *("\u2028", "\x85", "\u202eabc", "مرحبا", "\ufeff", "\ufffe", "e\u0301" * 50, "\U0001f600", "\U0010ffff"),
        *(
            "__other__",
            "unknown",
            ".",
            "..",
            "../..",
            "a/b",
            "%00",
            "%2e%2e%2f",
            "?x=1",
            "#x",
            "a b",
            "${HOME}",
            "{run_id}",
        ),
        *("null", "true", "NaN", "inf", "1e400", "-1", "0", "9" * 30, "9" * 5000, "x" * 129, "x" * LONG, "\n" * LONG),
        *("0000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-14:00"),
        *("10000-01-01T00:00:00Z", "2023-02-30T00:00:00Z", "2023-11-14T22:13:20+99:99", "2023-11-14", "T", "1e18"),
        *(
            "P",
            "PT",
            "PT-5S",
            "P1Y2M3DT4H5M6,5S",
            "PT" + "9" * 400 + "S",
            "P" + "9" * 60 + "Y",
            "-P1D",
            "P1W",
            "1:00:00",
        ),
        *(
            "* * * * *",
            "*/0 * * * *",
            "60 25 32 13 8",
            "@reboot",
            "0 0 31 2 *",
            "0 0 29 2 *",
            "* " * 60,
            "1-99999999 * * * *",
        ),
        *("Europe/Berlin", "Mars/Phobos", "/etc/passwd", "../../etc/passwd", "UTC\0", "succeeded", "FAILED", "running"),
    )
)
SURROGATES = (rb'"\ud800"', rb'"\udfff"', rb'"a\udc00b"', rb'"\ud83d\ude00"', rb'"\ud83d"', b'"\xed\xa0\x80"')
INVALID_UTF8 = (b'"\xff"', b'"\xc3\x28"', b'"\xf8\x88\x80\x80\x80"', b'"\xc0\x80"', b'"a\x00b"', b'"a\nb"')
SHAPES = (
    *(b"null", b"true", b"false", b"[]", b"{}", b"[[]]", b"[{}]", b"[null]", b"[1]", b'["a"]', b'{"a":1}', b'{"":{}}'),
    *(b'{"id":"x"}', b'[{"id":"x"}]', b'{"name":{"name":1}}', b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP),
    *(
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b"[" * 900 + b"]" * 900,
        b"",
        b'"',
        b'"\\',
        b'"\\u12',
        b"{",
        b"[1,",
        b"nul",
    ),
)
VALUES: Sequence[bytes] = (*NUMBERS, *TEXTS, *SURROGATES, *INVALID_UTF8, *SHAPES)
WORST_VALUES: Sequence[bytes] = (
    *(b"-0", b"1e400", b"1e18", b"-1", b"9223372036854775808", b"9" * 309, b"9" * 5000, b"NaN", b"null", b"[]", b"{}"),
    *(
        b"true",
        rb'"\ud800"',
        b'"\xff"',
        rb'"a\u0000\n\"\\b"',
        b'"9999-12-31T23:59:59-14:00"',
        b'"0001-01-01T00:00:00+14:00"',
    ),
    *(b'"P99999999999999999999Y"', b'"PT-5S"', b'"' + b"x" * LONG + b'"', b"[" * DEEP, b'""'),
)
"""The worst values, for the usual tests."""


def changed_bodies(body: bytes) -> Iterator[bytes]:
    """Yield a body cut, doubled, wrapped and encoded differently, and each value as the body."""
    yield from (b"", b" ", b"\0", body[: len(body) // 2], body[:-1], body[1:], body + body, body + b"\0", b"\xff\xfe")
    yield from (b"\xef\xbb\xbf" + body, body.decode().encode("utf-16"), gzip.compress(body), b"<html></html>")
    yield from (b"[" + body + b"]", b'{"data":' + body + b"}", json.dumps(body.decode()).encode())
    yield from VALUES


def paths_in(value: object, path: JsonPath = ()) -> Iterator[JsonPath]:
    """Yield the paths of all values in a document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from paths_in(child, (*path, key))


def value_at(value: Any, path: Iterable[str | int]) -> Any:
    """Return the value at a path."""
    for key in path:
        value = value[key]
    return value


def replace_value(value: object, path: JsonPath, raw: bytes) -> bytes:
    """Return the document with a raw value at a path."""
    return msgspec.json.encode(_replaced(value, path, raw))


def _replaced(value: object, path: JsonPath, raw: bytes) -> object:
    if not path:
        return msgspec.Raw(raw)
    key, *rest = path
    if isinstance(value, dict):
        return {**value, key: _replaced(value[key], tuple(rest), raw)}
    assert isinstance(value, list)
    return [_replaced(each, tuple(rest), raw) if at == key else each for at, each in enumerate(value)]


def remove_value(value: object, path: JsonPath) -> bytes:
    """Return the document without the value at a path."""
    *above, last = path
    parent = value_at(value, above)
    pairs = parent.items() if isinstance(parent, dict) else enumerate(parent)
    kept = {key: child for key, child in pairs if key != last}
    return replace_value(
        value, tuple(above), msgspec.json.encode(kept if isinstance(parent, dict) else [*kept.values()])
    )


def repeat_key(value: object, path: JsonPath, raw: bytes) -> bytes:
    """Return the document with the last key of a path repeated, with a raw value."""
    *above, last = path
    parent = value_at(value, above)
    if not isinstance(parent, dict):
        return replace_value(value, path, raw)
    text = msgspec.json.encode(parent)
    return replace_value(value, tuple(above), text[:-1] + b"," + msgspec.json.encode(last) + b":" + raw + b"}")
