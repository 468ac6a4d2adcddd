"""The daemon as a process with few open files, while clients leave connections open."""

import contextlib
import http.client
import resource
import socket
import sys

import pytest

from tests.web.certificates import client_context, write_certificate
from tests.web.test_web_config_e2e import CONFIG, Process

FILES = 256
CONNECTIONS = 400
HELLO = b"\x16\x03\x01\x02\x00\x01"
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n"
LINES = 20
"""More than a daemon writes in some seconds, and less than one for every hundredth connection or refusal."""

pytestmark = pytest.mark.e2e


class Flooded:
    """A daemon, and connections to it that stay open."""

    def __init__(self, folder, arguments, context):
        (folder / "config.yaml").write_text(CONFIG % folder)
        command = f"ulimit -n {FILES}; exec {sys.executable} -m exporter run --config.file=config.yaml"
        self.process = Process(["sh", "-c", f"{command} --web.listen-address=127.0.0.1:0 {arguments}"], folder)
        self.port = int(self.process.wait_for(r"msg=listening address=127\.0\.0\.1:(\d+)")[0])
        self.context = context
        self.held = contextlib.ExitStack()

    def hold(self, sent, count=CONNECTIONS):
        """Open connections, send something on each, and keep them open."""
        for _ in range(count):
            connection = self.held.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=10))
            with contextlib.suppress(ConnectionError):  # it has already shrunk
                connection.sendall(sent)

    def scrape(self):
        """Return the status of a scrape."""
        if self.context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        else:
            connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=self.context)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().status

    def end(self):
        self.held.close()
        self.process.end()


@pytest.fixture
def flooded(tmp_path):
    daemon = Flooded(tmp_path, "", None)
    yield daemon
    daemon.end()


@pytest.fixture
def flooded_with_tls(tmp_path):
    (tmp_path / "web.yaml").write_text(write_certificate(tmp_path))
    daemon = Flooded(tmp_path, "--web.config.file=web.yaml", client_context())
    yield daemon
    daemon.end()


@pytest.fixture(autouse=True)
def _many_files():
    """Allow the test itself to open enough files."""
    kept = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(kept[1], 4096), kept[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, kept)


def test_idle_connections_and_slow_headers_neither_block_scrapes_nor_fill_the_log(flooded):
    for sent in (b"", b"GET /metr", HEALTHY):
        flooded.hold(sent)
        assert flooded.scrape() == 200
    assert len(flooded.process.lines) < LINES


def test_unfinished_handshakes_neither_block_scrapes_nor_fill_the_log(flooded_with_tls):
    flooded_with_tls.hold(HELLO)
    assert flooded_with_tls.scrape() == 200
    assert len(flooded_with_tls.process.lines) < LINES


def test_malformed_requests_log_one_line_per_minute(flooded):
    flooded.hold(b"x\r\n\r\n")
    assert flooded.scrape() == 200
    flooded.process.wait_for("Invalid HTTP request received")
    assert len(flooded.process.lines) < LINES
