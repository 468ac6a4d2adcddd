import socket
import ssl
import threading
import time
from pathlib import Path

import httpx
import pytest

from exporter.client.budget import Budget
from exporter.client.client import Client, Environment, NetworkSettings
from exporter.errors import NetworkError, TimedOutError

ENDPOINT = "/x"
TIMEOUT = 0.2
SLACK = 3.0
"""Seconds that a busy machine may add; without the limit each of these servers would take twelve."""
PEM = str(Path(__file__).with_name("localhost.pem"))
"""A key and its self-signed certificate for 127.0.0.1, made for these tests."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


class Server:
    """A server on loopback that handles each connection with a function; counts connections and keeps their data."""

    def __init__(self, behave, tls=None):
        self.behave, self.tls, self.got, self.connections = behave, tls, [], 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, connection):
        if self.tls is not None:
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with connection:
            try:
                self.got.append(connection.recv(65536))
                self.behave(connection)
            except OSError:
                return


def dribble(piece, times=200, pause=0.02):
    def behave(connection):
        for _ in range(times):
            connection.sendall(piece)
            time.sleep(pause)

    return behave


@pytest.fixture
def serve():
    servers, clients = [], []

    def serve(behave, root="http://127.0.0.1:{port}", proxy="", timeout=TIMEOUT, tls=None, **files):
        server = Server(behave, tls)
        client = Client(
            root.format(port=server.port),
            httpx.Auth(),
            Budget(6000.0, monotonic=time.monotonic, sleep=time.sleep),
            network=NetworkSettings(timeout=timeout, proxy_url=proxy.format(port=server.port), **files),
            environment=Environment(random=lambda: 0.0),
        )
        servers.append(server)
        clients.append(client)
        return server, client

    yield serve
    for client in clients:
        client.close()
    for server in servers:
        server.socket.close()


@pytest.mark.parametrize(
    "behave",
    [
        lambda _: time.sleep(4.0),
        dribble(b"H"),
        lambda connection: (connection.sendall(b"HTTP/1.1 200 OK\r\nX: "), dribble(b"y")(connection)),
        lambda connection: (connection.sendall(HEAD), dribble(b"z")(connection)),
    ],
    ids=["silent", "dribbles its status line", "dribbles a header", "dribbles its body"],
)
def test_a_slow_server_delays_no_request_longer_than_twice_the_timeout(serve, behave):
    server, client = serve(behave)
    started = time.monotonic()
    with pytest.raises((TimedOutError, NetworkError)):
        client.get("/", endpoint=ENDPOINT)
    assert time.monotonic() - started < 3 * 2 * TIMEOUT + SLACK
    assert server.connections == 3


def test_a_body_that_breaks_off_is_a_network_error(serve):
    _, client = serve(lambda connection: connection.sendall(HEAD + b"half"))
    with pytest.raises(NetworkError):
        client.get("/", endpoint=ENDPOINT)


def test_a_refused_connection_is_a_network_error_that_says_so(serve):
    server, client = serve(lambda _: None)
    server.socket.shutdown(socket.SHUT_RDWR)
    server.socket.close()
    with pytest.raises(NetworkError, match="refused"):
        client.get("/", endpoint=ENDPOINT)


def answer_all(connection):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    connection.sendall(answer)
    while connection.recv(65536):
        connection.sendall(answer)


def test_a_connection_is_kept_for_the_next_request(serve):
    server, client = serve(answer_all, timeout=5.0)
    assert [client.get("/", endpoint=ENDPOINT) for _ in range(3)] == [b"[]"] * 3
    assert server.connections == 1


def test_a_proxy_is_used_only_if_it_is_configured(serve):
    server, client = serve(answer_all, root="http://api.invalid", proxy="http://user:word@127.0.0.1:{port}")
    client.get("/a", endpoint=ENDPOINT)
    assert server.got[0].startswith(b"GET http://api.invalid/a HTTP/1.1")
    assert b"proxy-authorization: basic" in server.got[0].lower()


@pytest.fixture
def tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM)
    return context


def test_a_configured_authority_is_trusted_and_tls_connections_are_kept(serve, tls):
    server, client = serve(answer_all, root="https://127.0.0.1:{port}", timeout=5.0, tls=tls, ca_file=PEM)
    assert [client.get("/", endpoint=ENDPOINT) for _ in range(2)] == [b"[]"] * 2
    assert server.connections == 1


def test_an_unknown_authority_is_a_network_error_that_says_so(serve, tls):
    _, client = serve(answer_all, root="https://127.0.0.1:{port}", timeout=5.0, tls=tls)
    with pytest.raises(NetworkError, match="certificate verify failed"):
        client.get("/", endpoint=ENDPOINT)


def test_a_client_certificate_is_sent_if_the_server_requires_it(serve, tls):
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(PEM)
    root = "https://127.0.0.1:{port}"
    _, client = serve(answer_all, root=root, timeout=5.0, tls=tls, ca_file=PEM, cert_file=PEM, key_file=PEM)
    client.get("/", endpoint=ENDPOINT)
    _, stranger = serve(answer_all, root=root, timeout=5.0, tls=tls, ca_file=PEM)
    with pytest.raises(NetworkError):
        stranger.get("/", endpoint=ENDPOINT)
