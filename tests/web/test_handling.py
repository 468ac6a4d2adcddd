"""Who computes while others wait."""

import asyncio
import threading

import pytest
from starlette.responses import Response

from exporter.reports.errors import ReportError
from exporter.web.request_pool import RequestPool


@pytest.fixture
def handling():
    handling = RequestPool()
    yield handling
    handling.close()


def refuse(error):
    return Response(str(error), error.status)


def answers(handling, *handlers):
    """What these handlers answer to requests that come at once."""

    async def ask():
        return await asyncio.gather(*(handling.route("/", handler, refuse).endpoint(None) for handler in handlers))

    return [answer.body for answer in asyncio.run(ask())]


def test_handlers_compute_one_at_a_time(handling):
    at_work, others = [], threading.Event()

    def compute(_):
        at_work.append(1)
        others.wait(0.02)  # long enough for another thread to come in, if it may
        together = len(at_work)
        at_work.pop()
        return Response(str(together))

    assert answers(handling, *[compute] * 8) == [b"1"] * 8


def test_while_one_waits_another_computes(handling):
    answered = threading.Event()

    def waits(_):
        with handling.waiting():
            return Response(str(answered.wait(10)))

    def computes(_):
        answered.set()
        return Response("computed")

    assert answers(handling, waits, computes) == [b"True", b"computed"]


def test_after_a_fault_while_waiting_others_compute_one_at_a_time_again(handling):
    def fails(_):
        with handling.waiting():
            raise ReportError("the other side is gone")

    def computes(_):
        return Response(str(handling._computing.locked()))

    assert answers(handling, fails)[0] == b"the other side is gone"
    assert answers(handling, computes) == [b"True"]
