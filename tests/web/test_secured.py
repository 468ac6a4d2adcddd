"""Pages behind a web config file, with real clients over loopback."""

import base64
import concurrent.futures
import io
import logging
import socket
import ssl
import threading

import httpx
import pytest
import structlog
from starlette.responses import HTMLResponse
from starlette.routing import Route

from exporter import logs
from exporter.config import ConfigError
from exporter.web.application import HTML_HEADERS, application
from exporter.web.auth import Passwords, SecuredApplication
from exporter.web.file import RETRY_INTERVAL, WebFile
from exporter.web.server import HEAD_LIMIT, WebServer
from tests.web.certificates import (
    AUTHORITY,
    PASSWORD,
    STRANGER,
    bcrypt_hash,
    client_certificate,
    client_context,
    expired_certificate,
    write_certificate,
)

HASH = bcrypt_hash()
USERS = f"basic_auth_users: {{anna: '{HASH}'}}\n"
ALL_PATHS = ["/", "/metrics", "/-/healthy", "/-/ready", "/nowhere", "//metrics", "/%2e%2e/metrics"]
CLIENTS = ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem"


NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""A client that trusts nobody; for plain HTTP, where the system's authorities need not be read."""


class Served:
    """A server with a web config file, and the file to change."""

    def __init__(self, exporter, folder, text):
        self.folder = folder
        self.now = 0.0
        self._exporter = exporter
        self._serial = 0
        AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
        self.write(text)
        self.file = WebFile(folder / "web.yaml", lambda: self.now)
        answers = exporter.answers(routes=[Route("/", lambda _: HTMLResponse("a page", headers=HTML_HEADERS))])
        self.server = WebServer(
            SecuredApplication(application(answers), self.file.current), "127.0.0.1", 0, self.file.tls
        )

    def write(self, text):
        """Replace the file atomically, like an administration tool."""
        self._serial += 1
        (self.folder / "next").write_text(f"# {self._serial}\n{text}")
        (self.folder / "next").replace(self.folder / "web.yaml")

    def client(self, user=None, password=PASSWORD, verify=NOBODY):
        scheme = "https" if self.file.tls else "http"
        auth = None if user is None else (user, password)
        return httpx.Client(base_url=f"{scheme}://127.0.0.1:{self.server.port}", auth=auth, verify=verify)

    def get(self, path="/-/healthy", user=None, password=PASSWORD, verify=NOBODY):
        with self.client(user, password, verify) as client:
            return client.get(path)

    def peer(self):
        """Returns the serial number of the certificate that a new connection gets."""
        context = client_context()
        with (
            socket.create_connection(("127.0.0.1", self.server.port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as wrapped,
        ):
            return wrapped.getpeercert()["serialNumber"]


@pytest.fixture
def serve(exporter, tmp_path):
    started = []

    def start(text):
        served = Served(exporter, tmp_path, text)
        served.server.start()
        started.append(served.server)
        return served

    yield start
    for server in started:
        server.stop(1)


@pytest.fixture
def lines():
    """Return the log lines."""
    kept = logging.root.handlers[:], logging.root.level
    stream = io.StringIO()
    logs.configure(logs.LogOptions("debug"), stream)
    yield stream
    logging.root.handlers, logging.root.level = kept[0], kept[1]
    structlog.reset_defaults()


# --- basic auth ---


@pytest.mark.parametrize("path", ALL_PATHS)
def test_without_a_password_every_path_is_refused(serve, path):
    answer = serve(USERS).get(path)

    assert (answer.status_code, answer.text) == (401, "Unauthorized\n")
    assert answer.headers["www-authenticate"].startswith("Basic ")


def test_with_the_password_pages_are_as_without_users(serve):
    served = serve(USERS)

    assert served.get(user="anna").text == "well\n"
    assert served.get("/nowhere", user="anna").status_code == 404


@pytest.mark.parametrize(
    ("user", "password"),
    [("anna", "wrong"), ("anna", ""), ("anna", HASH), ("bert", PASSWORD), ("Anna", PASSWORD), ("", PASSWORD)],
)
def test_wrong_users_and_passwords_are_refused_each_time(serve, user, password):
    served = serve(USERS)

    assert [served.get(user=user, password=password).status_code for _ in range(2)] == [401, 401]
    assert served.get(user="anna").status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Basic YW5uYQ==",
        "Bearer " + PASSWORD,
        f"Basic anna:{PASSWORD}",
        "Basic " + base64.b64encode(b"\xff\xfe:\x00\xff").decode(),
        "Basic " + base64.b64encode(b"anna:" + b"x" * 5000).decode(),
    ],
)
def test_other_schemes_than_basic_auth_are_refused(serve, header):
    served = serve(USERS)
    with served.client() as client:
        assert client.get("/metrics", headers={"Authorization": header}).status_code == 401


def test_passwords_of_any_length_and_script_work(serve):
    served = serve(f"basic_auth_users: {{'änne': '{bcrypt_hash('ß' * 36)}'}}\n")

    assert served.get(user="änne", password="ß" * 36).status_code == 200
    assert served.get(user="änne", password="ß" * 36 + "more that bcrypt does not see").status_code == 200
    assert served.get(user="änne", password="ß" * 35).status_code == 401


def test_a_reload_needs_the_password(serve, exporter):
    served = serve(USERS)
    with served.client() as client:
        assert client.post("/-/reload").status_code == 401
        assert exporter.reloads == 0
        assert client.post("/-/reload", auth=("anna", PASSWORD)).status_code == 200
    assert exporter.reloads == 1


def test_changed_users_apply_to_the_next_request_even_on_an_open_connection(serve):
    served = serve(USERS)
    with served.client("anna") as client:
        assert client.get("/-/healthy").status_code == 200
        served.write(f"basic_auth_users: {{bert: '{HASH}'}}\n")
        assert client.get("/-/healthy").status_code == 401
    assert served.get(user="bert").status_code == 200
    served.write("")
    assert served.get().status_code == 200


def test_an_old_password_is_refused_after_the_hash_changed(serve):
    served = serve(USERS)
    assert served.get(user="anna").status_code == 200
    served.write(f"basic_auth_users: {{anna: '{bcrypt_hash('another')}'}}\n")

    assert served.get(user="anna").status_code == 401
    assert served.get(user="anna", password="another").status_code == 200


@pytest.mark.parametrize("bad", ["basic_auth_users: {anna: plain}", "{", "unknown: 1", "tls_server_config: {}"])
def test_an_invalid_file_changes_nothing_and_is_logged_once(serve, lines, bad):
    served = serve(USERS)
    served.write(bad)

    for _ in range(3):
        assert served.get().status_code == 401
        assert served.get(user="anna").status_code == 200
        served.now += RETRY_INTERVAL
    refusals = [line for line in lines.getvalue().splitlines() if "web config refused" in line]
    assert len(refusals) == 1
    assert "plain" not in refusals[0]


def test_a_missing_file_changes_nothing(serve):
    served = serve(USERS)
    (served.folder / "web.yaml").unlink()

    assert served.get().status_code == 401
    assert served.get(user="anna").status_code == 200


def test_a_fixed_file_is_loaded(serve):
    served = serve(USERS)
    served.write("{")
    assert served.get(user="anna").status_code == 200
    served.write(f"basic_auth_users: {{bert: '{HASH}'}}\n")
    assert served.get(user="anna").status_code == 401


def test_a_reload_loads_the_file_or_reports_its_problems(serve):
    served = serve(USERS)
    served.write("unknown: 1\n")
    with pytest.raises(ConfigError, match="unknown: unknown key"):
        served.file.reload()
    served.write(f"basic_auth_users: {{bert: '{HASH}'}}\n")
    served.file.reload()
    assert list(served.file.current().users) == [b"bert"]


def test_https_cannot_be_enabled_or_disabled_while_running(serve, tmp_path):
    served = serve(USERS)
    served.write(write_certificate(tmp_path) + USERS)
    with pytest.raises(ConfigError, match="cannot be enabled or disabled by a reload"):
        served.file.reload()
    assert served.get(user="anna").status_code == 200


def test_nothing_secret_is_ever_logged(serve, lines):
    served = serve(USERS)
    served.get(user="anna")
    served.get(user="anna", password="wrong-word")
    served.write(f"basic_auth_users: {{'{HASH}': anna, bert: plain-word}}\n{HASH}: x\n")
    served.get(user="anna")

    logged = lines.getvalue()
    assert "web config refused" in logged
    assert not [word for word in (HASH[7:], PASSWORD, "wrong-word", "plain-word") if word in logged]


def test_basic_auth_without_tls_logs_a_warning(serve, lines):
    serve(USERS)
    assert "basic auth without TLS: passwords cross the network in clear text" in lines.getvalue()


def test_a_slow_check_delays_nobody_else(exporter, tmp_path):
    (tmp_path / "web.yaml").write_text(f"basic_auth_users: {{anna: '{HASH}', bert: '{bcrypt_hash('b')}'}}\n")
    requested, go_on = threading.Event(), threading.Event()

    def check(password, _against):
        if password == b"slow":
            requested.set()
            go_on.wait(10)
        return password == PASSWORD.encode()

    file = WebFile(tmp_path / "web.yaml", float)
    app = SecuredApplication(application(exporter.answers()), file.current, Passwords(check))
    with WebServer(app, "127.0.0.1", 0) as server, concurrent.futures.ThreadPoolExecutor() as others:
        url = f"http://127.0.0.1:{server.port}/-/healthy"
        assert httpx.get(url, auth=("anna", PASSWORD)).status_code == 200
        slow = others.submit(httpx.get, url, auth=("anna", "slow"), timeout=20)
        requested.wait(10)
        assert httpx.get(url, auth=("anna", PASSWORD)).status_code == 200
        assert httpx.get(url).status_code == 401
        assert not slow.done()
        go_on.set()
        assert slow.result().status_code == 401


def test_a_client_that_guesses_too_fast_gets_429(exporter, tmp_path):
    (tmp_path / "web.yaml").write_text(USERS)
    compared, go_on = threading.Semaphore(0), threading.Event()

    def check(_password, _against):
        compared.release()
        go_on.wait(10)
        return False

    file = WebFile(tmp_path / "web.yaml", float)
    app = SecuredApplication(application(exporter.answers()), file.current, Passwords(check))
    with WebServer(app, "127.0.0.1", 0) as server, concurrent.futures.ThreadPoolExecutor(8) as clients:
        url = f"http://127.0.0.1:{server.port}/"
        answers = [clients.submit(httpx.get, url, auth=("anna", str(n)), verify=NOBODY, timeout=20) for n in range(8)]
        compared.acquire()
        done = concurrent.futures.as_completed(answers)
        early = [next(done).result() for _ in range(4)]
        go_on.set()
        assert sorted(each.result().status_code for each in answers) == [401] * 4 + [429] * 4
    assert [(each.status_code, each.headers["retry-after"]) for each in early] == [(429, "1")] * 4


# --- headers and sizes ---


HEADERS = """
http_server_config:
  http2: false
  headers:
    Content-Security-Policy: "default-src 'self'"
    X-Frame-Options: deny
    X-Content-Type-Options: nosniff
    X-XSS-Protection: ""
    Strict-Transport-Security: max-age=31536000
"""


@pytest.mark.parametrize("user", ["anna", None])
@pytest.mark.parametrize("path", ALL_PATHS)
def test_configured_headers_are_on_every_response_once(serve, path, user):
    headers = serve(HEADERS + USERS).get(path, user=user).headers

    assert headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert headers.get_list("x-frame-options") == ["deny"]
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("strict-transport-security") == ["max-age=31536000"]
    assert "x-xss-protection" not in headers


def test_pages_keep_their_own_headers_where_none_are_configured(serve):
    assert "default-src 'none'" in serve("").get("/").headers["content-security-policy"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /%s HTTP/1.1\r\n",
        b"GET / HTTP/1.1\r\nX: %s",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 100_000,
    ],
)
def test_an_endless_header_is_cut_off(serve, head):
    served = serve(USERS)
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=10) as connection:
        try:
            connection.sendall(head.replace(b"%s", b"x" * 10 * HEAD_LIMIT))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionError:  # the server closed it while the test was still sending
            answer = b""
    assert answer == b"" or b"400 Bad Request" in answer or b"401" in answer
    assert served.get(user="anna").status_code == 200


def test_large_bodies_are_ignored(serve):
    served = serve(USERS)
    with served.client("anna") as client:
        assert client.post("/-/reload", content=b"x" * 5_000_000).status_code == 200
        assert client.get("/-/healthy").status_code == 200


# --- TLS ---


def test_https_is_served_to_clients_that_trust_the_authority(serve, tmp_path):
    served = serve(write_certificate(tmp_path) + USERS)

    assert served.get(user="anna", verify=client_context()).text == "well\n"
    assert served.get(verify=client_context()).status_code == 401
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        served.get(user="anna", verify=client_context(STRANGER))


def test_plain_http_on_the_tls_port_fails_cleanly(serve, tmp_path, lines):
    served = serve(write_certificate(tmp_path))

    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{served.server.port}/metrics")
    assert served.get(verify=client_context()).status_code == 200
    assert lines.getvalue() == ""


@pytest.mark.parametrize(
    ("keys", "version", "works"),
    [
        ("", ssl.TLSVersion.TLSv1_2, True),
        ("", ssl.TLSVersion.TLSv1_3, True),
        (", min_version: TLS13", ssl.TLSVersion.TLSv1_2, False),
        (", max_version: TLS12", ssl.TLSVersion.TLSv1_3, False),
        (", cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]", ssl.TLSVersion.TLSv1_2, False),
        (", cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]", ssl.TLSVersion.TLSv1_2, True),
    ],
)
def test_versions_and_cipher_suites_are_enforced(serve, tmp_path, keys, version, works):
    served = serve(write_certificate(tmp_path, extra_keys=keys))
    context = client_context()
    context.minimum_version = context.maximum_version = version

    if works:
        assert served.get(verify=context).status_code == 200
    else:
        with pytest.raises(httpx.ConnectError):
            served.get(verify=context)


def test_the_next_connection_gets_a_rotated_certificate(serve, tmp_path):
    served = serve(write_certificate(tmp_path))
    before = served.peer()
    with served.client(verify=client_context()) as open_before:
        open_before.get("/-/healthy")
        write_certificate(tmp_path)
        assert served.peer() not in (before, None)
        assert open_before.get("/-/healthy").status_code == 200


def test_a_certificate_without_its_key_is_not_used_until_both_are_there(serve, tmp_path, lines):
    served = serve(write_certificate(tmp_path))
    before = served.peer()
    other = AUTHORITY.issue_cert("localhost")
    other.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    assert [served.peer(), served.peer()] == [before, before]
    other.private_key_pem.write_to_path(tmp_path / "server.key")

    assert served.peer() != before
    assert lines.getvalue().count("web config refused") == 1


def test_named_files_are_loaded_once_they_exist(serve, tmp_path):
    served = serve(write_certificate(tmp_path))
    before = served.peer()
    served.write("tls_server_config: {cert_file: later.pem, key_file: later.key}\n")
    assert served.peer() == before
    write_certificate(tmp_path, stem="later")
    served.now += RETRY_INTERVAL

    assert served.peer() != before


def test_changed_tls_settings_apply_too(serve, tmp_path):
    served = serve(write_certificate(tmp_path))
    old = client_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert served.get(verify=old).status_code == 200
    served.write(write_certificate(tmp_path, extra_keys=", min_version: TLS13"))
    with pytest.raises(httpx.ConnectError):
        served.get(verify=old)


def connects(served, context):
    """Returns whether a client gets a response. With TLS 1.3 a refused client learns it at its first read."""
    try:
        return served.get(verify=context).status_code == 200
    except httpx.TransportError:
        return False


def test_clients_need_a_certificate_of_the_authority(serve, tmp_path, lines):
    served = serve(write_certificate(tmp_path, extra_keys=CLIENTS))

    assert connects(served, client_context(client=client_certificate()))
    assert not connects(served, client_context())
    assert not connects(served, client_context(client=client_certificate(STRANGER)))
    assert not connects(served, client_context(client=expired_certificate()))
    assert lines.getvalue() == ""


def test_clients_need_no_certificate_if_it_is_optional(serve, tmp_path):
    served = serve(
        write_certificate(tmp_path, extra_keys=CLIENTS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"))
    )

    assert connects(served, client_context())
    assert connects(served, client_context(client=client_certificate()))
    assert not connects(served, client_context(client=client_certificate(STRANGER)))


def test_a_removed_authority_is_no_longer_trusted(serve, tmp_path):
    served = serve(write_certificate(tmp_path, extra_keys=CLIENTS))
    context = client_context(client=client_certificate())
    assert connects(served, context)
    STRANGER.cert_pem.write_to_path(tmp_path / "ca.pem")

    assert not connects(served, context)
    assert connects(served, client_context(client=client_certificate(STRANGER)))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("name", "works"), [("good.example.com", True), ("bad.example.com", False), ("10.0.0.7", True), ("a@b.org", True)]
)
def test_only_clients_of_allowed_names_connect(serve, tmp_path, name, works, version):
    served = serve(
        write_certificate(tmp_path, extra_keys=CLIENTS + ", client_allowed_sans: [good.example.com, 10.0.0.7, a@b.org]")
    )
    context = client_context(client=client_certificate(name=name))
    context.minimum_version = context.maximum_version = version

    assert [connects(served, context) for _ in range(2)] == [works, works]
