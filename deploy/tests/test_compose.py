"""The compose files: the services that they start, and the files that these need."""

import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from exporter.config import loads
from exporter.sources import KNOWN_NAMES
from tests.e2e.processes import HOST, eventually, free_port, require_tool

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose"
VARIANTS = {
    "demo": ["-f", "compose.yaml"],
    "config": ["-f", "compose.yaml", "-f", "compose.config.yaml"],
    "replicas": ["-f", "compose.yaml", "--profile", "replicas"],
}
ALWAYS = {"exporter", "prometheus", "alertmanager", "grafana"}
REPLICAS = {"postgres", "vendor", "replica", "haproxy", "prometheus-replicas"}
OWN = ("exporter", "replica", "vendor")


@pytest.fixture(params=VARIANTS)
def project(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the merged compose files of a variant."""
    require_tool("podman")  # podman-compose asks for its version first
    command = [sys.executable, "-m", "podman_compose", *VARIANTS[request.param], "config"]
    done = subprocess.run(command, cwd=COMPOSE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


def loaded(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((COMPOSE / name).read_text()))


def mounts() -> list[tuple[str, str]]:
    """Return each service with the path of this tree that it mounts."""
    services = loaded("compose.yaml")["services"]
    return [
        (name, each.split(":")[0])
        for name, service in services.items()
        for each in service.get("volumes", ())
        if each[0] == "."
    ]


@pytest.mark.parametrize(
    ("project", "services"), [("demo", ALWAYS), ("replicas", ALWAYS | REPLICAS)], indirect=["project"]
)
def test_each_service_of_a_profile_has_a_health_check(project: dict[str, Any], services: set[str]) -> None:
    assert {name for name, service in project["services"].items() if not service.get("profiles")} == ALWAYS
    assert project["services"].keys() == services
    assert [name for name, service in project["services"].items() if not service.get("healthcheck")] == []


def test_no_port_can_be_reached_from_elsewhere(project: dict[str, Any]) -> None:
    ports = [port for service in project["services"].values() for port in service.get("ports", ())]
    assert len(ports) >= 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_every_image_is_pinned_to_a_version(project: dict[str, Any]) -> None:
    images = [service["image"] for service in project["services"].values()]
    assert [image for image in images if not re.search(r":v?\d+(\.\d+){1,2}$", image)] == []


def test_the_exporter_runs_hardened_with_its_state_on_a_volume_or_in_the_database(project: dict[str, Any]) -> None:
    services = project["services"]
    own = [service for name, service in services.items() if name in OWN]
    assert [(each["read_only"], each["cap_drop"]) for each in own] == [(True, ["ALL"])] * len(own)
    assert "state:/var/lib/jobrun-exporter" in services["exporter"]["volumes"]
    assert services["exporter"]["command"][0] in {"demo", "run"}
    if "replica" in services:
        assert services["replica"]["deploy"]["replicas"] == 3
        assert not any("/var/lib" in volume for volume in services["replica"]["volumes"])


def test_the_replicas_use_the_simulated_vendor_and_the_database_of_the_compose_file() -> None:
    services = loaded("compose.yaml")["services"]
    url = services["replica"]["environment"]["STATE_URL"].replace("${POSTGRES_PASSWORD:-jobrun}", "secret")
    config = loads((COMPOSE / "replicas.yaml").read_text(), {"STATE_URL": url}, KNOWN_NAMES)

    assert config.state.url is not None
    assert urlsplit(config.state.url.reveal())[1:3] == ("jobrun:secret@postgres", "/jobrun")
    assert services["postgres"]["environment"]["POSTGRES_DB"] == "jobrun"
    assert "--vendor=snowplow" in services["vendor"]["command"]
    assert config.sources[0].base_url == "http://vendor:8080"


def test_haproxy_tries_the_next_replica_if_one_is_down_or_answers_503(tmp_path: Path) -> None:
    with serving(200) as good, serving(503) as stale:
        port, gone = free_port(), free_port()
        lines = [f"    server replica{each} {HOST}:{each}" for each in (stale, gone, good)]
        text = (COMPOSE / "haproxy.cfg").read_text()
        text = re.sub(r"^    server-template .*$", "\n".join(lines), text, flags=re.MULTILINE)
        text = text.replace("bind :9797", f"bind {HOST}:{port}").replace("inter 2s", "inter 100s")
        (tmp_path / "haproxy.cfg").write_text(text)
        proxy = subprocess.Popen([require_tool("haproxy"), "-f", tmp_path / "haproxy.cfg"], stderr=subprocess.DEVNULL)
        try:
            assert eventually(lambda: status(port) == 200)
            assert [status(port) for _ in range(12)] == [200] * 12
        finally:
            proxy.kill()
            proxy.wait()


@contextmanager
def serving(metrics: int) -> Iterator[int]:
    """Serve /metrics with a status, and everything else with 200; yield the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(metrics if self.path == "/metrics" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def status(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.parametrize(("service", "source"), mounts())
def test_every_mounted_file_exists(service: str, source: str) -> None:
    assert (COMPOSE / source).exists(), service


def test_the_config_of_prometheus_differs_from_the_example_only_in_names_of_services() -> None:
    example = (ROOT / "prometheus/prometheus.yml").read_text()
    renamed = example.replace('["localhost:9797"]', '["exporter:9797"]').replace(
        '["localhost:9093"]', '["alertmanager:9093"]'
    )

    assert loaded("prometheus.yml") == yaml.safe_load(renamed)


def test_prometheus_and_alertmanager_accept_their_configs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "prometheus/rules", tmp_path / "rules")
    for name in ("prometheus.yml", "prometheus.replicas.yml"):
        shutil.copy(COMPOSE / name, tmp_path)
    for command in (
        [require_tool("promtool"), "check", "config", tmp_path / "prometheus.yml"],
        [require_tool("promtool"), "check", "config", tmp_path / "prometheus.replicas.yml"],
        [require_tool("amtool"), "check-config", ROOT / "prometheus/alertmanager.yml"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_that_grafanas_provisioning_needs_is_set() -> None:
    texts = [path.read_text() for path in (ROOT / "grafana/provisioning").rglob("*.yml")]
    named = {name for text in texts for name in re.findall(r"(?<!\$)\$\{(\w+)\}", text)}

    assert named
    assert named <= loaded("compose.yaml")["services"]["grafana"]["environment"].keys()
