"""Errors of connections and responses say what to do, and a proxy's refusal is reported as such."""

import contextlib
import socket
import ssl

import httpx
import pytest
import trustme

from exporter.client.budget import Budget
from exporter.client.client import Client, Environment, NetworkSettings
from exporter.client.signin import BearerAuth, _fields, secret_text
from exporter.errors import AuthError, ClientStatusError, DecodeError, NetworkError, ProxyRefusedError
from tests.client.test_network_deadline import Server

AUTHORITY = trustme.CA()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def serve(moved):
    """Start a server that answers every request with this response. Return the server and a client."""
    with contextlib.ExitStack() as stack:

        def started(answer, root, *, tls=None, proxy="", **files):
            def behave(connection):
                connection.sendall(answer)
                while connection.recv(65536):
                    connection.sendall(answer)

            server = Server(behave, tls)
            stack.callback(server.socket.close)
            settings = NetworkSettings(timeout=5.0, proxy_url=proxy.format(port=server.port), **files)
            environment = Environment(clock=moved.clock, sleep=moved.sleep)
            budget = Budget(600.0, monotonic=moved.monotonic, sleep=moved.sleep)
            root = root.format(port=server.port)
            client = Client(root, BearerAuth(lambda: "word"), budget, network=settings, environment=environment)
            stack.callback(client.close)
            return server, client

        yield started


def refused(client, error):
    with pytest.raises(error) as caught:
        client.get("/x", endpoint="/x")
    return str(caught.value)


def test_tls_to_a_port_that_speaks_plain_http_suggests_http(serve):
    _, client = serve(b"HTTP/1.1 400 Bad Request\r\n\r\n", "https://127.0.0.1:{port}")
    assert "the server speaks plain HTTP on this port: write http:// in base_url" in refused(client, NetworkError)


def test_plain_http_to_a_port_that_speaks_tls_suggests_https(serve):
    _, client = serve(ANSWER, "http://127.0.0.1:{port}", tls=server_context())
    assert refused(client, NetworkError).endswith("base_url must begin with https://")


@pytest.mark.parametrize(
    "text",
    [b"Client sent an HTTP request to an HTTPS server.\n", b"<h1>The plain HTTP request was sent to HTTPS port</h1>"],
)
def test_plain_http_to_a_port_that_says_it_speaks_tls_suggests_https(serve, text):
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    _, client = serve(head + text, "http://127.0.0.1:{port}")
    assert refused(client, ClientStatusError) == "GET /x: 400: the server speaks TLS: write https:// in base_url"


def test_a_certificate_of_a_private_authority_suggests_a_ca_file(serve):
    _, client = serve(ANSWER, "https://127.0.0.1:{port}", tls=server_context())
    assert refused(client, NetworkError).endswith("set tls.ca_file to its certificate")


def test_a_port_where_nothing_listens(serve):
    server, client = serve(ANSWER, "http://127.0.0.1:{port}")
    server.socket.shutdown(socket.SHUT_RDWR)
    server.socket.close()
    assert refused(client, NetworkError).endswith("check the host and the port of base_url")


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Sign in</title>", b"\n <html lang=en>"])
def test_a_web_page_instead_of_json(serve, page):
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(page)}\r\n\r\n".encode()
    _, client = serve(head + page, "http://127.0.0.1:{port}")
    assert refused(client, DecodeError) == "GET /x: the response is HTML, not JSON: is base_url the API's host?"


NO_PASSWORD = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("root", ["http://api.invalid", "https://api.invalid"])
def test_a_wrong_proxy_password_is_an_error_of_the_proxy_and_tried_once(serve, root):
    server, client = serve(NO_PASSWORD, root, proxy="http://user:secret@127.0.0.1:{port}")
    said = refused(client, ProxyRefusedError)
    assert said == "GET /x: the proxy refused with 407: check the user and the password in proxy_url"
    assert sum(got.count(b"api.invalid") > 0 for got in server.got) == 1


def test_a_proxy_that_forbids_a_host_is_tried_once(serve):
    forbidden = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    server, client = serve(forbidden, "https://api.invalid", proxy="http://127.0.0.1:{port}")
    assert refused(client, ProxyRefusedError) == "GET /x: the proxy refused with 403: it does not allow this host"
    assert server.connections == 1


def test_a_proxy_that_cannot_reach_the_api_is_tried_again(serve):
    bad = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
    server, client = serve(bad, "https://api.invalid", proxy="http://127.0.0.1:{port}")
    assert refused(client, NetworkError) == "GET /x: the proxy refused with 502: it cannot reach the API"
    assert server.connections == 3


def test_a_ca_file_applies_to_a_tls_proxy_too(serve, tmp_path):
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    arguments = {"tls": server_context(), "proxy": "https://127.0.0.1:{port}"}
    _, client = serve(ANSWER, "http://api.invalid", ca_file=str(tmp_path / "ca.pem"), **arguments)
    assert client.get("/x", endpoint="/x") == b"{}"
    _, client = serve(ANSWER, "http://api.invalid", **arguments)
    assert refused(client, NetworkError).endswith("set tls.ca_file to its certificate")


@pytest.mark.parametrize(
    ("credential", "said"),
    [
        ("", "the credential is empty: check its file or variable"),
        (" \n", "the credential is empty: check its file or variable"),
        ("a\nb", "the credential contains line breaks or control characters: remove all else from its file"),
    ],
)
def test_a_credential_that_cannot_be_sent_says_why(credential, said):
    with pytest.raises(AuthError, match=said):
        secret_text(lambda: credential)


def test_a_byte_order_mark_is_not_part_of_a_credential():
    assert secret_text(lambda: "\ufeffword\r\n") == "word"


def test_a_sign_in_that_returns_a_web_page_suggests_a_wrong_host():
    with pytest.raises(AuthError, match="it is HTML; is base_url the API's host"):
        _fields(httpx.Response(200, content=b"<html>"))
