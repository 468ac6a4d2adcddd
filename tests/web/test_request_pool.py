"""Handlers compute one at a time and wait together."""

import asyncio
import threading

import pytest
from starlette.responses import Response

from exporter.queries.errors import QueryError
from exporter.web.request_pool import RequestPool


@pytest.fixture
def pool():
    pool = RequestPool()
    yield pool
    pool.close()


def refuse(error):
    return Response(str(error), error.status)


def answers(pool, *handlers):
    """Return the responses of these handlers to simultaneous requests."""

    async def ask():
        return await asyncio.gather(*(pool.route("/", handler, refuse).endpoint(None) for handler in handlers))

    return [answer.body for answer in asyncio.run(ask())]


def test_handlers_compute_one_at_a_time(pool):
    at_work, others = [], threading.Event()

    def compute(_):
        at_work.append(1)
        others.wait(0.02)  # long enough for another thread to run, if it may
        together = len(at_work)
        at_work.pop()
        return Response(str(together))

    assert answers(pool, *[compute] * 8) == [b"1"] * 8


def test_while_one_handler_waits_another_computes(pool):
    answered = threading.Event()

    def waits(_):
        with pool.waiting():
            return Response(str(answered.wait(10)))

    def computes(_):
        answered.set()
        return Response("computed")

    assert answers(pool, waits, computes) == [b"True", b"computed"]


def test_after_an_error_while_waiting_handlers_compute_one_at_a_time(pool):
    def fails(_):
        with pool.waiting():
            raise QueryError(500, "the other side is gone")

    def computes(_):
        return Response(str(pool._computing.locked()))

    assert answers(pool, fails)[0] == b"the other side is gone"
    assert answers(pool, computes) == [b"True"]
