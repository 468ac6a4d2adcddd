"""Bodies that are not quite JSON."""

import msgspec
import pytest

from exporter.sources.payload import decode_rows, scalar, text


@pytest.mark.parametrize("half", [rb"\ud83d", rb"\udc4f"])
@pytest.mark.parametrize("after", ["", " and more"])
def test_half_a_surrogate_pair_in_a_row_costs_nothing_but_its_letter(half, after):
    (row,) = decode_rows(b'[{"name": "cut ' + half + after.encode() + b'"}]', ())
    fields = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    assert text(fields["name"]) == f"cut \ufffd{after}"


@pytest.mark.parametrize("raw", [b"1e400", b"9" * 5000, b"NaN", b'"\xff"', b"[" * 100_000, b'"', b"null", b"true"])
def test_what_is_no_text_and_no_number_counts_as_absent(raw):
    assert scalar(msgspec.Raw(raw)) is None
