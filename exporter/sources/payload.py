"""JSON bodies read tolerantly: a surprise in one row costs that row, and a body of another shape is an error.

Nothing here raises anything but `DecodeError` and `SchemaError`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from exporter.errors import DecodeError, SchemaError

Shape = TypeVar("Shape")
Scalar = str | int | float | None
LONGEST_ID = 200
"""Characters; an id is stored, asked for in URLs and a label, and no vendor's is nearly as long."""
MOST_PARTS = 1_000_000
"""Commas in one body: the largest honest answers have a third of that. Each may part two rows, and a row takes 70 bytes
even if it is a single digit: a body of the largest size allowed could otherwise fill two gigabytes."""
CROWDED = "the answer has too many parts"
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
ESCAPES = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\[^u])|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
"""Whole surrogate pairs and other escapes as group 1; else half a pair, as texts have that were cut in the middle."""
SLICE = 256 * 1024
"""Bytes of a long list that are decoded in one piece: decoding lets no other thread run, 0.2 ms for so many."""
BETWEEN_ROWS = re.compile(rb"\}\s*,\s*(?=\{)")
SCALAR: msgspec.json.Decoder[Scalar] = msgspec.json.Decoder(Scalar)
ROWS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
OBJECT: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
ABSENT = msgspec.Raw()


def decode(body: bytes, decoder: msgspec.json.Decoder[Shape]) -> Shape:
    """A body in the decoder's shape.

    Raises:
        SchemaError: It is JSON of another shape.
        DecodeError: It is not JSON, nested too deeply, not UTF-8, or of too many parts.
    """
    refuse_crowds(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise SchemaError("the answer is not of the shape that was promised") from None
    except MALFORMED:
        pass
    try:
        return decoder.decode(mended(body))
    except msgspec.ValidationError:
        raise SchemaError("the answer is not of the shape that was promised") from None
    except MALFORMED:
        raise DecodeError("the answer is not JSON") from None


def refuse_crowds(body: bytes) -> None:
    """Raises DecodeError for a body of so many parts that they would fill the memory."""
    if len(body) > 2 * MOST_PARTS and body.count(b",") > MOST_PARTS:
        raise DecodeError(CROWDED)


def mended(body: bytes) -> bytes:
    """The body without a byte order mark, and with U+FFFD for halves of surrogate pairs."""
    return ESCAPES.sub(lambda match: match.group(1) or rb"\ufffd", body.removeprefix(b"\xef\xbb\xbf"))


def slices(body: bytes, size: int = SLICE) -> Iterator[bytes]:
    """A long JSON list of objects as shorter lists: where all of them are valid JSON, their rows are those of the body.

    It is cut where two objects seem to meet. If that was in a text or in an object, what precedes is no valid JSON.
    """
    view, opening, start = memoryview(body), b"", 0
    while between := BETWEEN_ROWS.search(body, start + size):
        yield b"".join((opening, view[start : between.start() + 1], b"]"))
        opening, start = b"[", between.end()
    yield b"".join((opening, view[start:]))


def decode_rows(body: bytes, envelopes: Sequence[str], *, nested: bool = True) -> list[msgspec.Raw]:
    """The rows of a bare array, or of an object that holds one under one of these keys.

    `nested`: such an object may stand in another one, under one of these keys too.
    """
    with suppress(*MALFORMED):  # an object that holds the list, or what only looked like two rows that meet
        return _sliced_rows(body)
    try:
        return decode(body, ROWS)
    except SchemaError:
        fields = decode(body, OBJECT)
    for key in envelopes:
        if key in fields:
            with suppress(SchemaError):
                return decode(bytes(fields[key]), ROWS)
    for key in envelopes if nested else ():
        if key in fields:
            with suppress(SchemaError):
                return decode_rows(bytes(fields[key]), envelopes, nested=False)
    raise SchemaError("the answer is an object without the list that was promised")


def _sliced_rows(body: bytes) -> list[msgspec.Raw]:
    rows = list[msgspec.Raw]()
    for piece in slices(body):
        refuse_crowds(piece)  # only rows that are no objects are not cut apart, so this rarely counts anything
        rows += ROWS.decode(piece)
        if len(rows) > MOST_PARTS + 1:
            raise DecodeError(CROWDED)
    return rows


def scalar(*values: msgspec.Raw) -> Scalar:
    """The first of these values that is a text or a number; null, absent and anything else count as absent."""
    for raw in values:
        value = decoded(raw, SCALAR)
        if value is not None:
            return value
    return None


def text(*values: msgspec.Raw) -> str:
    """The first of these values that is a text or a number, as text; "" if there is none."""
    value = scalar(*values)
    return "" if value is None else str(value)


def identity(*values: msgspec.Raw) -> str:
    """The first of these values that is a text or a number, as text; "" if there is none that could be an id."""
    value = text(*values)
    return value if len(value) <= LONGEST_ID else ""


def decoded(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Shape]) -> Shape | None:
    """A part of a body, None if it is absent or of another shape."""
    if not bytes(raw):
        return None
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        return None
    except MALFORMED:
        pass  # perhaps half a surrogate pair: what was skipped whole was not looked at
    try:
        return decoder.decode(mended(bytes(raw)))
    except MALFORMED:
        return None
