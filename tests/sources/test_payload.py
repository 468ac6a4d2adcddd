"""Decoding of bodies: broken characters and values, and slices of long lists."""

import contextlib
import json
from itertools import chain

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.sources.payload import ROWS, decode_rows, scalar, slices, text


@pytest.mark.parametrize("half", [rb"\ud83d", rb"\udc4f"])
@pytest.mark.parametrize("after", ["", " and more"])
def test_half_a_surrogate_pair_in_a_row_loses_only_that_character(half, after):
    (row,) = decode_rows(b'[{"name": "cut ' + half + after.encode() + b'"}]', ())
    fields = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    assert text(fields["name"]) == f"cut \ufffd{after}"


@pytest.mark.parametrize(
    ("escaped", "plain"), [(rb"\u0000", "\ufffd"), (rb"\\u0000", r"\u0000"), (rb"\\\u0000", "\\\ufffd"), (rb"\n", "\n")]
)
def test_a_nul_is_replaced_because_databases_cannot_find_it_again(escaped, plain):
    for body in (b'[{"id": "a' + escaped + b'b"}]', b'{"runs": [{"id": "a' + escaped + b'b"}]}'):
        (row,) = decode_rows(body, ("runs",))
        assert text(msgspec.json.decode(row, type=dict[str, msgspec.Raw])["id"]) == f"a{plain}b"


@pytest.mark.parametrize("raw", [b"1e400", b"9" * 5000, b"NaN", b'"\xff"', b"[" * 100_000, b'"', b"null", b"true"])
def test_a_value_that_is_neither_text_nor_finite_number_is_absent(raw):
    assert scalar(msgspec.Raw(raw)) is None


TREACHEROUS = st.sampled_from(["},{", "}, {", '"},{"', "\\", '"', "[{", "}]", "", "plain"])
VALUES = st.recursive(TREACHEROUS | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(TREACHEROUS, inner))
LISTS = st.lists(st.dictionaries(TREACHEROUS, VALUES) | VALUES)


@given(rows=LISTS, size=st.integers(0, 40), separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n ", ":")]))
def test_slices_that_can_be_decoded_lose_no_row_of_the_list(rows, size, separators):
    body = json.dumps(rows, separators=separators).encode()
    with contextlib.suppress(json.JSONDecodeError):
        assert list(chain.from_iterable(map(json.loads, slices(body, size)))) == rows
    with contextlib.suppress(msgspec.DecodeError):
        raws = chain.from_iterable([ROWS.decode(part) for part in slices(body, size)])
        assert [json.loads(bytes(raw)) for raw in raws] == rows


@pytest.mark.parametrize(
    "body", [b'[{"a":1},{"b":2}', b'{"a":1},{"b":2}]', b'[{"a":1},{"b":2}]]', b'{"r":[{"a":1},{"b":2}]}']
)
def test_an_invalid_list_is_refused_in_slices_too(body):
    with pytest.raises(msgspec.DecodeError):
        list(map(ROWS.decode, slices(body, 1)))


def test_a_long_list_is_split_and_a_short_one_is_not():
    body = json.dumps([{"number": number, "text": "},{"} for number in range(1000)]).encode()
    assert max(map(len, slices(body, 1000))) < 1100
    assert list(slices(body)) == [body]
