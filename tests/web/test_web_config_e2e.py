"""The daemon as a process, behind a web config file."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.web.certificates import (
    AUTHORITY,
    PASSWORD,
    bcrypt_hash,
    client_certificate,
    client_context,
    write_certificate,
)

ROOT = Path(__file__).parents[2]
PROMETHEUS = shutil.which("prometheus")
CONFIG = """
sources: [{name: a, type: snowplow, organization_id: o, base_url: "http://127.0.0.1:9", auth: {api_key: k}}]
state: {path: %s/state.db}
"""
SCRAPE = """
global: {scrape_interval: 200ms, scrape_timeout: 200ms}
scrape_configs:
  - job_name: right
    scheme: https
    tls_config: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key, server_name: localhost}
    basic_auth: {username: anna, password: %(password)s}
    static_configs: [{targets: ["%(target)s"]}]
  - job_name: wrong
    scheme: https
    tls_config: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key, server_name: localhost}
    basic_auth: {username: anna, password: wrong}
    static_configs: [{targets: ["%(target)s"]}]
  - job_name: uncertified
    scheme: https
    tls_config: {ca_file: ca.pem, server_name: localhost}
    basic_auth: {username: anna, password: %(password)s}
    static_configs: [{targets: ["%(target)s"]}]
"""
PATIENCE = 30

pytestmark = pytest.mark.e2e


class Process:
    """A process, and its stderr so far."""

    def __init__(self, argv, folder):
        self._process: Any = subprocess.Popen(  # noqa: S603  # our own interpreter, or prometheus
            argv, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
        )
        self.lines = []
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self._process.stderr:
            with self._came:
                self.lines.append(line)
                self._came.notify_all()

    def wait_for(self, pattern, times=1):
        """Waits for log lines, and returns the groups of the last."""

        def found():
            return [match for line in self.lines if (match := re.search(pattern, line))][times - 1 :]

        with self._came:
            assert self._came.wait_for(found, PATIENCE), f"never logged: {pattern}"
            return found()[0].groups()

    def signal(self, number):
        self._process.send_signal(number)

    def end(self):
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stderr.close()


@pytest.fixture
def start(tmp_path):
    processes = []

    def started(*argv):
        processes.append(Process(argv, tmp_path))
        return processes[-1]

    yield started
    for process in processes:
        process.end()


@pytest.fixture
def daemon(start, tmp_path):
    """Starts a daemon with a web config file; returns the process and its port."""

    def started(web):
        (tmp_path / "config.yaml").write_text(CONFIG % tmp_path)
        (tmp_path / "web.yaml").write_text(web)
        process = start(
            *(sys.executable, "-m", "exporter", "run", "--config.file=config.yaml"),
            *("--web.config.file=web.yaml", "--web.listen-address=127.0.0.1:0"),
        )
        (port,) = process.wait_for(r"msg=listening address=127\.0\.0\.1:([0-9]+)")
        return process, int(port)

    return started


def up(address):
    """Returns which scrape jobs succeed."""
    answer = httpx.get(f"http://{address}/api/v1/query", params={"query": "up"}).json()
    return {each["metric"]["job"]: each["value"][1] for each in answer["data"]["result"]}


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
def test_prometheus_scrapes_over_tls_with_a_certificate_and_a_password(daemon, start, tmp_path):
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = client_certificate()
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    clients = (
        ", client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert"
        ", client_allowed_sans: [prometheus.example.com]"
    )
    _, port = daemon(
        write_certificate(tmp_path, extra_keys=clients) + f"basic_auth_users: {{anna: '{bcrypt_hash()}'}}\n"
    )
    (tmp_path / "scrape.yaml").write_text(SCRAPE % {"password": PASSWORD, "target": f"127.0.0.1:{port}"})
    prometheus = start(
        *(PROMETHEUS, "--config.file=scrape.yaml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0")
    )
    (address,) = prometheus.wait_for(r'msg="Listening on" address=(\S+)')
    prometheus.wait_for("Server is ready to receive web requests")
    wanted = {"right": "1", "wrong": "0", "uncertified": "0"}

    before = time.monotonic()
    while (seen := up(address)) != wanted and time.monotonic() - before < PATIENCE:
        time.sleep(0.1)
    assert seen == wanted


def test_sighup_loads_a_web_config_or_refuses_it_with_its_problems(daemon, tmp_path):
    process, port = daemon(write_certificate(tmp_path) + f"basic_auth_users: {{anna: '{bcrypt_hash()}'}}\n")

    def status(user):
        return httpx.get(
            f"https://127.0.0.1:{port}/-/healthy", auth=(user, PASSWORD), verify=client_context()
        ).status_code

    assert (status("anna"), status("bert")) == (200, 401)
    (tmp_path / "web.yaml").write_text("basic_auth_users: {bert: plain-word}\n")
    process.signal(signal.SIGHUP)
    process.wait_for("reload refused.*basic_auth_users.bert: must be a bcrypt hash")
    assert (status("anna"), status("bert")) == (200, 401)
    (tmp_path / "web.yaml").write_text(write_certificate(tmp_path) + f"basic_auth_users: {{bert: '{bcrypt_hash()}'}}\n")
    process.signal(signal.SIGHUP)
    process.wait_for("configuration reloaded")
    assert (status("anna"), status("bert")) == (401, 200)
    assert not [line for line in process.lines if "plain-word" in line or "$2b$" in line or PASSWORD in line]


def test_an_invalid_web_config_keeps_the_daemon_from_starting(start, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG % tmp_path)
    (tmp_path / "web.yaml").write_text("tls_server_config: {cert_file: none.pem}\nrate_limit: {}\n")
    process = start(sys.executable, "-m", "exporter", "run", "--config.file=config.yaml", "--web.config.file=web.yaml")

    process.wait_for("tls_server_config.cert_file: the file cannot be read")
    process.wait_for("tls_server_config.key_file: is required")
    process.wait_for("rate_limit: is not supported")
