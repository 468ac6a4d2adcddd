"""Connections are bounded, and a new one is always accepted."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import sys
import time
from typing import Any

import pytest

from exporter.web.application import application
from exporter.web.server import MAX_CONNECTIONS, Connections, WebServer, connection_limit
from tests.web.certificates import AUTHORITY, client_context

MOST = 8
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"


class FakeConnection:
    """A connection that records its end."""

    def __init__(self, busy):
        self.busy = busy
        self.aborted = False

    def abort(self):
        self.aborted = True


def fake(*, busy=False) -> Any:
    return FakeConnection(busy)


def test_the_connection_idle_longest_is_closed_for_a_new_one():
    first, second, third = fake(), fake(), fake()
    connections = Connections(2)
    connections.add(first)
    connections.add(second)
    connections.touch(first)
    connections.add(third)
    assert (first.aborted, second.aborted, third.aborted) == (False, True, False)
    assert len(connections) == 2


def test_a_busy_connection_stays_while_another_is_idle():
    busy, idle = fake(busy=True), fake()
    connections = Connections(2)
    for connection in (busy, idle, fake()):
        connections.add(connection)
    assert (busy.aborted, idle.aborted) == (False, True)


def test_if_all_are_busy_the_oldest_is_closed():
    oldest, other = fake(busy=True), fake(busy=True)
    connections = Connections(2)
    for connection in (oldest, other, fake()):
        connections.add(connection)
    assert (oldest.aborted, other.aborted) == (True, False)


def test_a_closed_connection_does_not_count():
    first, second = fake(), fake()
    connections = Connections(1)
    connections.add(first)
    connections.pop(first)
    connections.add(second)
    connections.touch(first)
    assert (first.aborted, len(connections)) == (False, 1)


def limit_under(files):
    """Return the limit of connections in a process that may open this many files."""
    code = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}));"
        "from exporter.web.server import connection_limit; print(connection_limit())"
    )
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)  # noqa: S603  # runs this Python


def test_connections_use_at_most_a_quarter_of_the_open_files():
    assert limit_under(256) == 64
    assert connection_limit() <= MAX_CONNECTIONS


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200));"
        "from exporter.web.server import raise_open_file_limit; raise_open_file_limit();"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603  # as above
    assert done.stdout == "(200, 200)\n"


@pytest.fixture
def small(exporter):
    exporter.exposition.publish()
    with WebServer(application(exporter.answers()), "127.0.0.1", 0, max_connections=MOST) as server:
        yield server


@pytest.fixture
def small_with_tls(exporter):
    exporter.exposition.publish()
    context = serving()
    with WebServer(application(exporter.answers()), "127.0.0.1", 0, lambda: context, max_connections=MOST) as server:
        yield server


def serving():
    """Return a server's TLS context that clients trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    return context


def connected(server, sent):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(sent)
    return connection


def scraped(server, context=None):
    """Return the status of a scrape over a new connection."""
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    else:
        connection = http.client.HTTPSConnection("localhost", server.port, timeout=10, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().status


@pytest.mark.parametrize("sent", [b"", b"GET /metr", HEALTHY], ids=["silent", "slow head", "keep-alive"])
def test_a_scrape_succeeds_no_matter_how_many_connections_are_open(small, caplog, sent):
    with contextlib.ExitStack() as stack:
        for _ in range(10 * MOST):
            stack.enter_context(connected(small, sent))
        assert scraped(small) == 200
        assert len(small._server.server_state.connections) <= MOST
    assert caplog.messages == []


def test_unfinished_handshakes_are_bounded_too(small_with_tls, caplog):
    hello = b"\x16\x03\x01\x02\x00\x01"
    with contextlib.ExitStack() as stack:
        for _ in range(10 * MOST):
            stack.enter_context(connected(small_with_tls, hello))
        assert scraped(small_with_tls, client_context()) == 200
        assert len(small_with_tls._server._connections) <= MOST
    assert caplog.messages == []


def test_a_stalled_handshake_is_closed(exporter):
    context = serving()
    with (
        WebServer(application(exporter.answers()), "127.0.0.1", 0, lambda: context, head_timeout=0.3) as server,
        connected(server, b"\x16") as connection,
    ):
        assert connection.recv(1) == b""


def test_a_request_may_arrive_together_with_the_end_of_the_handshake(small_with_tls):
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(received, to_send, server_hostname="localhost")
    with connected(small_with_tls, b"") as connection:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
            connection.sendall(to_send.read())
            received.write(connection.recv(65536))
        client.write(HEALTHY)
        connection.sendall(to_send.read())
        answer = b""
        while b"well" not in answer:
            received.write(connection.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    answer += client.read()
    assert answer.startswith(b"HTTP/1.1 200")


def test_a_used_connection_outlives_idle_ones(small):
    with contextlib.ExitStack() as stack:
        scraper = stack.enter_context(connected(small, b""))
        for _ in range(3 * MOST):
            scraper.sendall(HEALTHY)
            answer = http.client.HTTPResponse(scraper)
            answer.begin()
            assert answer.read() == b"well\n"
            stack.enter_context(connected(small, b"GET"))


def test_stop_closes_handshakes_in_progress(exporter):
    context = serving()
    server = WebServer(application(exporter.answers()), "127.0.0.1", 0, lambda: context)
    server.start()
    with connected(server, b"\x16") as connection:
        time.sleep(0.05)  # the handshake has begun
        server.stop(1)
        assert connection.recv(1) == b""
    assert server._thread is not None
    assert not server._thread.is_alive()
