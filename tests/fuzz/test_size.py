"""Responses that are too large: where they are cut off, and how much memory they use until then."""

import tracemalloc
import zlib
from collections.abc import Iterator

import httpx
import pytest

from exporter.client.budget import Budget
from exporter.client.client import Client, NetworkSettings
from exporter.errors import DecodeError
from exporter.sources.northflank import api as northflank_api
from exporter.sources.payload import MAX_COMMAS, decode_rows
from exporter.sources.snowplow import api as snowplow_api
from exporter.sources.snowplow import details as snowplow_details
from exporter.sources.strait import api as strait_api
from exporter.sources.workato import api as workato_api

MEBI = 1024 * 1024
LIMIT = NetworkSettings().body_limit


class Gigabyte(httpx.SyncByteStream):
    """A gigabyte of JSON in pieces of a mebibyte, each made when it is read; `taken`: the number of pieces read."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        yield b'["'
        for _ in range(1024):
            self.taken += 1
            yield b"x" * MEBI
        yield b'"]'


class Squeezed(Gigabyte):
    """The same gigabyte, compressed to a thousandth."""

    def __iter__(self) -> Iterator[bytes]:
        squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
        for piece in super().__iter__():
            yield squeeze.compress(piece)
        yield squeeze.flush()


class Bomb(httpx.SyncByteStream):
    """The same gigabyte, compressed and in one piece."""

    taken = 1

    def __iter__(self) -> Iterator[bytes]:
        squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
        yield b"".join(squeeze.compress(bytes(MEBI)) for _ in range(1024)) + squeeze.flush()


def client(body, **headers):
    """Return a client of an API that answers every request with this body."""
    answer = httpx.MockTransport(lambda _: httpx.Response(200, headers=headers, stream=body))
    budget = Budget(60.0, monotonic=lambda: 0.0, sleep=lambda _: None)
    return Client("http://127.0.0.1", httpx.Auth(), budget, network=NetworkSettings(timeout=600.0), transport=answer)


@pytest.fixture
def peak():
    """Measure the peak of additional bytes in use."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "headers", "most"),
    [
        (Gigabyte(), {}, LIMIT),
        (Squeezed(), {"Content-Encoding": "gzip"}, LIMIT),
        (Bomb(), {"Content-Encoding": "gzip"}, 2 * LIMIT),  # the library joins the decompressed parts of one chunk
    ],
    ids=["plain", "squeezed", "bomb"],
)
def test_a_gigabyte_is_cut_off_at_the_limit_and_uses_about_that_much_memory(body, headers, most, peak):
    requested = client(body, **headers)
    with pytest.raises(DecodeError, match="larger than"):
        requested.get("/runs", endpoint="/runs")
    assert peak() < most + 8 * MEBI
    requested.close()
    assert body.taken <= LIMIT / MEBI + 2 or isinstance(body, Squeezed)  # which is taken ahead while it is squeezed


PARSERS = {
    "snowplow": lambda body: snowplow_api.parse_rows(body, {}),
    "snowplow steps": lambda body: snowplow_details.parse_steps(body, snowplow_api.STATUSES),
    "workato": lambda body: workato_api.parse_jobs(body, "1/2", workato_api.STATUSES),
    "workato recipes": workato_api.parse_recipes,
    "northflank": lambda body: northflank_api.parse_page(b'{"data":{"runs":' + body + b"}}", "runs"),
    "strait": lambda body: strait_api.parse_page(body, lambda row: strait_api.parse_run(row, {}), 100),
}


@pytest.mark.parametrize("row", [b"0", b"{}", b"[]", b'""'])
@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
def test_a_response_of_millions_of_tiny_rows_is_refused_before_it_fills_the_memory(parse, row, peak):
    number = LIMIT // (len(row) + 1) - 1
    body = b"[" + (row + b",") * number + row + b"]"
    held = peak()
    with pytest.raises(DecodeError, match="too many rows or values"):
        parse(body)
    assert peak() - held <= 2 * len(body)


def test_as_many_rows_as_real_responses_can_have_are_read():
    body = b"[" + b"{}," * MAX_COMMAS + b"{}]"
    assert len(decode_rows(body, ())) == MAX_COMMAS + 1
