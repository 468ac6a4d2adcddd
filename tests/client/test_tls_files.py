"""Certificates that change on disk are used from the next request on."""

import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from exporter.client.budget import Budget
from exporter.client.client import Client, Environment, NetworkSettings
from exporter.client.signin import BearerAuth
from exporter.errors import NetworkError
from tests.client.test_network_deadline import Server

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Api:
    """A server whose certificate and CA of its clients can be replaced."""

    def __init__(self, authority):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certify(authority)
        self.server = Server(self._behave, self.context)

    def certify(self, authority):
        authority.issue_cert("127.0.0.1").configure_cert(self.context)

    def trust(self, authority):
        self.context.verify_mode = ssl.CERT_REQUIRED
        authority.configure_trust(self.context)

    @staticmethod
    def _behave(connection):
        connection.sendall(ANSWER)
        while connection.recv(65536):
            connection.sendall(ANSWER)


@pytest.fixture
def make(moved, request):
    def made(api, **files):
        client = Client(
            f"https://127.0.0.1:{api.server.port}",
            BearerAuth(lambda: "word"),
            Budget(6000.0, monotonic=moved.monotonic, sleep=moved.sleep),
            network=NetworkSettings(timeout=5.0, **dict[str, Any](zip(files, map(str, files.values()), strict=True))),
            environment=Environment(clock=moved.clock, sleep=moved.sleep),
        )
        request.addfinalizer(client.close)
        request.addfinalizer(api.server.socket.close)
        return client

    return made


def ask(client):
    return client.get("/x", endpoint="/x")


def test_a_new_authority_is_trusted_as_soon_as_its_file_exists(make, tmp_path):
    first, second, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    first.cert_pem.write_to_path(str(file))
    api = Api(first)
    client = make(api, ca_file=file)
    assert ask(client) == b"{}"
    api.certify(second)
    second.cert_pem.write_to_path(str(file))
    assert ask(client) == b"{}"


def test_a_half_written_file_is_logged_once_and_the_old_one_stays_in_use(make, tmp_path):
    first, second, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    first.cert_pem.write_to_path(str(file))
    api = Api(first)
    client = make(api, ca_file=file)
    with capture_logs() as lines:
        file.write_bytes(second.cert_pem.bytes()[:100])
        assert [ask(client) for _ in range(3)] == [b"{}"] * 3
        file.unlink()
        assert ask(client) == b"{}"
        api.certify(second)
        second.cert_pem.write_to_path(str(file))
        assert ask(client) == b"{}"
    assert [line["log_level"] for line in lines] == ["warning", "warning", "info"]


def test_a_clients_certificate_and_key_are_exchanged_together(make, tmp_path):
    authority, old, new = trustme.CA(), trustme.CA(), trustme.CA()
    files = {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "cert.pem", "key_file": tmp_path / "key.pem"}
    authority.cert_pem.write_to_path(str(files["ca_file"]))
    pairs = {each: each.issue_cert("client") for each in (old, new)}

    def write(each, *names):
        if "cert" in names:
            pairs[each].cert_chain_pems[0].write_to_path(str(files["cert_file"]))
        if "key" in names:
            pairs[each].private_key_pem.write_to_path(str(files["key_file"]))

    write(old, "cert", "key")
    api = Api(authority)
    api.trust(old)
    client = make(api, **files)
    assert ask(client) == b"{}"
    write(new, "cert")
    assert ask(client) == b"{}"  # the key of this certificate does not exist yet: the old pair is used
    api.trust(new)
    write(new, "key")
    assert ask(client) == b"{}"


def test_a_request_in_flight_completes_on_the_old_connection_when_a_file_changes(make, moved, tmp_path):
    authority, file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    begun, changed = threading.Event(), threading.Event()
    api = Api(authority)

    def halting(connection):
        connection.sendall(ANSWER[:-2])
        begun.set()
        changed.wait(10)
        connection.sendall(
            ANSWER[-2:-1]
        )  # the read that waits for this may outlive a closed socket; the next would not
        connection.sendall(ANSWER[-1:])

    behave, api.server.behave = api.server.behave, halting
    client = make(api, ca_file=file)
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(ask, client)
        assert begun.wait(10)
        api.server.behave = behave
        file.write_bytes(authority.cert_pem.bytes() + b"\n")
        assert ask(client) == b"{}"
        changed.set()
        assert in_flight.result(10) == b"{}"
    assert moved.slept == [], "the request was sent again"
    assert ask(client) == b"{}"
    assert client._http._transport._inner._replaced == []


def test_a_server_of_an_unknown_authority_is_refused_before_and_after(make, tmp_path):
    known, unknown, file = trustme.CA(), trustme.CA(), tmp_path / "ca.pem"
    known.cert_pem.write_to_path(str(file))
    client = make(Api(unknown), ca_file=file)
    with pytest.raises(NetworkError):
        ask(client)
    file.write_bytes(known.cert_pem.bytes() + b"\n")
    with pytest.raises(NetworkError):
        ask(client)
