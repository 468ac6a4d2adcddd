"""Listening, and ceasing to."""

import socket
import threading
import time

import httpx
import pytest

from exporter.web.application import application
from exporter.web.server import ListenError, WebServer
from tests.exposition.builders import job, view


def test_an_address_that_is_taken_is_a_clear_error(exporter, server):
    second = WebServer(application(exporter.answers()), "127.0.0.1", server.port)
    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{server.port}: Address already in use"):
        second.start()


def test_an_address_of_somebody_else_is_a_clear_error(exporter):
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1:0"):
        WebServer(application(exporter.answers()), "192.0.2.1", 0).start()


def test_an_empty_host_means_all_interfaces(exporter):
    with WebServer(application(exporter.answers()), "", 0) as server:
        assert server.port != 0
        assert httpx.get(f"http://127.0.0.1:{server.port}/-/healthy").status_code == 200


def test_the_end_of_an_answer_does_not_wait_until_its_beginning_is_confirmed(server, client):
    client.get("/-/healthy")
    [connection] = server._server.server_state.connections
    accepted = connection.transport.get_extra_info("socket")
    assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_nobody_is_served_after_a_stop(exporter):
    server = WebServer(application(exporter.answers()), "127.0.0.1", 0)
    server.start()
    assert httpx.get(f"http://127.0.0.1:{server.port}/-/healthy").status_code == 200
    server.stop(1)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.port}/-/healthy")
    assert not server._thread.is_alive()


def test_a_server_that_never_started_can_be_stopped(exporter):
    WebServer(application(exporter.answers()), "127.0.0.1", 0).stop(1)


def test_a_stop_lets_an_answer_under_way_finish(exporter):
    asked, go_on = threading.Event(), threading.Event()

    def slow_reload():
        asked.set()
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
    asked.wait(10)
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
    assert not server._thread.is_alive()
