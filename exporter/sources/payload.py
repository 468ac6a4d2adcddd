"""Parses JSON tolerantly: a row with an unexpected value is dropped, and a body of another shape is an error.

The only errors raised here are `DecodeError` and `SchemaError`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from exporter.counting.labels import clean
from exporter.errors import DecodeError, SchemaError
from exporter.times import parse_timestamp

Shape = TypeVar("Shape")
Row = TypeVar("Row")
Scalar = str | int | float | None
# Maximum length of an unexpected value or of a status, in characters.
MAX_WORD_LENGTH = 64
# Maximum length of an ID, in characters. The IDs of all vendors are much shorter.
MAX_ID_LENGTH = 200
# Maximum number of commas in a body; the largest real responses have a third of that. A comma may separate two rows,
# and even a row of one digit takes 70 bytes of memory. Without this limit a body could fill two gigabytes.
MAX_COMMAS = 1_000_000
TOO_MANY_ROWS = "the response has too many rows or values"
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
# Group 1 matches whole surrogate pairs and other escapes. A match without group 1 is half a pair, as at the end of a
# truncated text.
ESCAPES = re.compile(
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\[^u])|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"
)
# Group 1 matches other escapes, such as the escaped backslash in `\\u0000`. A match without group 1 is a NUL.
NULS = re.compile(rb"(\\[^u])|\\u0000")
# Long lists are decoded in slices of this many bytes. Decoding one slice blocks all other threads for 0.2 ms.
SLICE_SIZE = 256 * 1024
BETWEEN_ROWS = re.compile(rb"\}\s*,\s*(?=\{)")
SCALAR: msgspec.json.Decoder[Scalar] = msgspec.json.Decoder(Scalar)
ROWS: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
OBJECT: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
FLAG: msgspec.json.Decoder[bool] = msgspec.json.Decoder(bool)


def decode(body: bytes, decoder: msgspec.json.Decoder[Shape]) -> Shape:
    """Return the decoded body.

    Raises:
        SchemaError: The body is JSON of another shape.
        DecodeError: The body is not JSON, not UTF-8, nested too deeply, or has too many values.
    """
    body = without_nul(body)
    check_commas(body)
    try:
        return _decode(body, decoder)
    except msgspec.ValidationError:
        raise SchemaError("the response does not have the expected shape") from None
    except MALFORMED:
        raise DecodeError("the response is not JSON") from None


def _decode(text: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[Shape]) -> Shape:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        raise
    except MALFORMED:
        return decoder.decode(repaired(bytes(text)))


def without_nul(body: bytes) -> bytes:
    """Return the body with U+FFFD instead of U+0000."""
    # No database finds an ID with a NUL again, so its run would be new, and counted, at each poll.
    # Most bodies have no backslash, and a search for one character is ten times as fast.
    escaped = b"\\" in body and rb"\u0000" in body
    return NULS.sub(lambda match: match.group(1) or rb"\ufffd", body) if escaped else body


def check_commas(body: bytes) -> None:
    """Raise DecodeError if the body has more than MAX_COMMAS commas."""
    if len(body) > 2 * MAX_COMMAS and body.count(b",") > MAX_COMMAS:
        raise DecodeError(TOO_MANY_ROWS)


def repaired(body: bytes) -> bytes:
    """Return the body without a byte order mark, and with halves of surrogate pairs replaced by U+FFFD."""
    return ESCAPES.sub(lambda match: match.group(1) or rb"\ufffd", body.removeprefix(b"\xef\xbb\xbf"))


def slices(body: bytes, size: int = SLICE_SIZE) -> Iterator[bytes]:
    """Yield a long JSON list of objects as shorter lists. If all of these are valid JSON, they have the body's rows."""
    # The list is cut where two objects seem to meet. If that place is within a text or an object, the slice before it
    # is not valid JSON.
    view, opening, start = memoryview(body), b"", 0
    while between := BETWEEN_ROWS.search(body, start + size):
        yield b"".join((opening, view[start : between.start() + 1], b"]"))
        opening, start = b"[", between.end()
    yield b"".join((opening, view[start:]))


def decode_rows(body: bytes, envelopes: Sequence[str], *, nested: bool = True) -> list[msgspec.Raw]:
    """Return the rows of an array, or of an object that has an array at one of the keys `envelopes`.

    `nested`: whether the object may be inside another object, at one of the same keys.
    """
    body = without_nul(body)
    # This fails if the body is an object around the list, or if a slice ends within a text.
    with suppress(*MALFORMED):
        return _sliced_rows(body)
    try:
        return decode(body, ROWS)
    except SchemaError:
        fields = Fields.of_body(body)
    rows = fields.rows(*envelopes)
    if rows is not None:
        return rows
    for raw in fields.raws(*envelopes) if nested else ():
        with suppress(SchemaError):
            return decode_rows(bytes(raw), envelopes, nested=False)
    raise SchemaError("the response is an object without the expected list")


def _sliced_rows(body: bytes) -> list[msgspec.Raw]:
    rows = list[msgspec.Raw]()
    for piece in slices(body):
        # If the list has objects, its slices are short, and their commas are not counted.
        check_commas(piece)
        rows += ROWS.decode(piece)
        if len(rows) > MAX_COMMAS + 1:
            raise DecodeError(TOO_MANY_ROWS)
    return rows


def usable(
    raws: Sequence[msgspec.Raw], parse: Callable[[msgspec.Raw], Row | None], noun: str, *, required: bool = True
) -> list[Row]:
    """Return the rows that `parse` can parse. Raises SchemaError if `required` and it can parse none of them."""
    rows = [row for raw in raws if (row := parse(raw))]
    if raws and not rows and required:
        raise SchemaError(f"no row of the response is {noun}")
    return rows


def scalar(*values: msgspec.Raw) -> Scalar:
    """Return the first number or nonempty text of these values. Without one, return "" if a value is "", else None."""
    empty: Scalar = None
    for raw in values:
        value = decoded(raw, SCALAR)
        if value is not None and value != "":
            return value
        empty = value if empty is None else empty
    return empty


def text(*values: msgspec.Raw) -> str:
    """Return the first of these values that is a text or a number, as text; "" if there is none."""
    value = scalar(*values)
    return "" if value is None else str(value)


def identity(*values: msgspec.Raw) -> str:
    """Return the first of these values that is a text or a number, as text; "" if it is too long for an ID."""
    value = text(*values)
    return value if len(value) <= MAX_ID_LENGTH else ""


def decoded(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Shape]) -> Shape | None:
    """Return a decoded value of a body; None if it is absent or of another shape."""
    try:
        return _decode(raw, decoder) if bytes(raw) else None
    except MALFORMED:
        return None


class Fields:
    """The fields of an object. A field is decoded when it is read.

    Methods take alternative names of a field, and return the first usable value. Letter case and underscores of names
    are ignored.
    """

    def __init__(self, fields: dict[str, msgspec.Raw]) -> None:
        self._fields: dict[str, msgspec.Raw] = {}
        for name, raw in fields.items():
            self._fields.setdefault(_folded(name), raw)

    @classmethod
    def of(cls, raw: msgspec.Raw) -> "Fields":
        """Return the fields of a value of a body; no fields if it is not an object."""
        return cls(decoded(raw, OBJECT) or {})

    @classmethod
    def of_body(cls, body: bytes) -> "Fields":
        """Return the fields of a body. Raises SchemaError if it is not an object."""
        return cls(decode(body, OBJECT))

    def raws(self, *names: str) -> list[msgspec.Raw]:
        """Return the fields with one of these names, in the order of the names."""
        return [self._fields[key] for key in map(_folded, names) if key in self._fields]

    def identity(self, *names: str) -> str:
        """Return an ID; "" if there is none."""
        return identity(*self.raws(*names))

    def text(self, *names: str) -> str:
        """Return a text or a number, as text; "" if there is none."""
        return text(*self.raws(*names))

    def name(self, *names: str) -> str:
        """Return the first text or number that can be a label, as text; "" if there is none. A blank text cannot."""
        return next((value for raw in self.raws(*names) if clean(value := text(raw))), "")

    def scalar(self, *names: str) -> Scalar:
        """Return a text or a number. Return a value of another type as JSON, so that it can be reported."""
        values = [raw for raw in self.raws(*names) if bytes(raw) != b"null"]
        value = scalar(*values)
        return bytes(values[0]).decode(errors="replace")[:MAX_WORD_LENGTH] if value is None and values else value

    def time(self, *names: str) -> float | None:
        """Return a time in Unix seconds; None if it is absent or unreadable."""
        return parse_timestamp(self.scalar(*names))

    def flag(self, *names: str) -> bool | None:
        """Return a boolean; None if it is absent."""
        return next((value for raw in self.raws(*names) if (value := decoded(raw, FLAG)) is not None), None)

    def object(self, *names: str) -> "Fields":
        """Return the fields of an object within this one; no fields if it is absent."""
        return next((Fields.of(raw) for raw in self.raws(*names)), Fields({}))

    def rows(self, *names: str) -> list[msgspec.Raw] | None:
        """Return the rows of a list; None if it is absent."""
        return next((rows for raw in self.raws(*names) if (rows := decoded(raw, ROWS)) is not None), None)


def _folded(name: str) -> str:
    return name.replace("_", "").casefold()
