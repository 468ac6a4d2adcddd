"""Starting and stopping the server, and its limits."""

import contextlib
import http.client
import socket
import struct
import threading
import time

import httpx
import pytest

from exporter.web.application import application
from exporter.web.server import ListenError, WebServer
from tests.exposition.view_builders import job, view


def test_an_address_in_use_is_a_clear_error(exporter, server):
    second = WebServer(application(exporter.answers()), "127.0.0.1", server.port)
    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{server.port}: Address already in use"):
        second.start()


def test_an_address_of_another_machine_is_a_clear_error(exporter):
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0"):
        WebServer(application(exporter.answers()), "192.0.2.1", 0).start()


def test_an_empty_host_means_all_interfaces(exporter):
    with WebServer(application(exporter.answers()), "", 0) as server:
        assert server.port != 0
        assert httpx.get(f"http://127.0.0.1:{server.port}/-/healthy").status_code == 200


def test_the_end_of_a_response_does_not_wait_for_its_start_to_be_confirmed(server, client):
    client.get("/-/healthy")
    [connection] = server._server.server_state.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_no_request_is_served_after_a_stop(exporter):
    server = WebServer(application(exporter.answers()), "127.0.0.1", 0)
    server.start()
    assert httpx.get(f"http://127.0.0.1:{server.port}/-/healthy").status_code == 200
    server.stop(1)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.port}/-/healthy")
    assert server._thread is not None
    assert not server._thread.is_alive()


def test_a_server_that_never_started_can_be_stopped(exporter):
    WebServer(application(exporter.answers()), "127.0.0.1", 0).stop(1)


def test_stop_lets_a_running_response_finish(exporter):
    requested, go_on = threading.Event(), threading.Event()

    def slow_reload():
        requested.set()
        go_on.wait(10)
        return True, "done"

    exporter.reloaded = slow_reload
    server = WebServer(application(exporter.answers()), "127.0.0.1", 0)
    server.start()
    got = []
    client = threading.Thread(
        target=lambda: got.append(httpx.post(f"http://127.0.0.1:{server.port}/-/reload", timeout=10).text)
    )
    client.start()
    requested.wait(10)
    stopping = threading.Thread(target=server.stop, args=(10,))
    stopping.start()
    go_on.set()
    stopping.join()
    client.join()
    assert got == ["done\n"]


def test_a_stuck_reader_does_not_keep_a_server_from_stopping(exporter):
    exporter.exposition.update(jobs=[view(job(key=key, name=f"{key:01000}")) for key in range(2000)])
    exporter.exposition.publish()
    server = WebServer(application(exporter.answers()), "127.0.0.1", 0)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(1000)
        before = time.monotonic()
        server.stop(0.5)
        assert time.monotonic() - before < 5
    assert server._thread is not None
    assert not server._thread.is_alive()


@pytest.fixture
def impatient(exporter):
    """Yield a server that waits only a moment for the rest of a request head."""
    with WebServer(application(exporter.answers()), "127.0.0.1", 0, head_timeout=0.3) as server:
        yield server


def connected(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def ends(connection):
    """Returns whether the server closes a connection without a response, before the ten seconds of the socket."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def answered(connection, request):
    """Read the whole response to a request; return its status."""
    answer = http.client.HTTPResponse(connection)
    connection.sendall(request)
    answer.begin()
    answer.read()
    return answer.status


HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("begun", [b"", b"G", b"\r\n", HEALTHY[:-2]])
def test_a_connection_without_a_complete_header_is_closed(impatient, begun):
    with connected(impatient) as connection:
        connection.sendall(begun)
        assert ends(connection)


def test_a_slowly_arriving_header_gets_no_extra_time(impatient):
    with connected(impatient) as connection:
        connection.sendall(b"GET /-/healthy HTTP/1.1\r\nX: ")
        connection.settimeout(0.02)
        for _ in range(500):
            with contextlib.suppress(TimeoutError):
                assert ends(connection)
                return
            connection.sendall(b"x")
        pytest.fail("it may go on forever")


@pytest.mark.parametrize("begun", [b"GET", b"\r\n"])
def test_the_second_header_on_a_connection_has_a_deadline_too(impatient, begun):
    with connected(impatient) as connection:
        assert answered(connection, HEALTHY) == 200
        connection.sendall(begun)
        assert ends(connection)


def test_idle_connections_and_slow_responses_have_no_such_deadline(impatient, exporter):
    answering = threading.Event()
    exporter.reloaded = lambda: (not answering.wait(0.6), "slow")
    with connected(impatient) as connection:
        for request in (HEALTHY, b"POST /-/reload HTTP/1.1\r\nHost: x\r\n\r\n", HEALTHY):
            assert answered(connection, request) == 200
            time.sleep(0.5)  # as above


@pytest.fixture
def _large(exporter):
    exporter.exposition.update(jobs=[view(job(key=key, name=f"{key:01000}")) for key in range(2000)])
    exporter.exposition.publish()


SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.usefixtures("_large")
def test_clients_that_vanish_log_nothing(server, client, caplog):
    for _ in range(10):
        with connected(server) as connection:
            connection.sendall(SCRAPE)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.get("/-/healthy")
    assert caplog.messages == []


@pytest.mark.usefixtures("_large")
def test_a_client_that_reads_too_slowly_is_disconnected(server, client, caplog):
    with connected(server) as connection:
        connection.sendall(SCRAPE)
        connection.recv(1000)
        until = time.monotonic() + 10
        client.get("/-/healthy")
        while len(server._server.server_state.connections) > 1 and time.monotonic() < until:
            time.sleep(0.02)  # as above
        assert len(server._server.server_state.connections) == 1
    assert caplog.messages == []


def test_a_request_for_a_web_socket_gets_the_page_and_logs_nothing(client, caplog):
    answer = client.get("/-/healthy", headers={"connection": "upgrade", "upgrade": "websocket"})
    assert answer.status_code == 200
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []
