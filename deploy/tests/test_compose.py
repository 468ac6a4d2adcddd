"""The compose files: what they would start, and that it is all there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.processes import needed

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deploy/compose"
VARIANTS = {"demo": ["compose.yaml"], "config": ["compose.yaml", "compose.config.yaml"]}


@pytest.fixture(params=VARIANTS)
def project(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The whole of a variant, as a compose program understands it."""
    needed("podman")  # podman-compose asks it for its version, whatever it is to do
    files = [argument for name in VARIANTS[request.param] for argument in ("-f", name)]
    command = [sys.executable, "-m", "podman_compose", *files, "config"]
    done = subprocess.run(command, cwd=COMPOSE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


def loaded(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((COMPOSE / name).read_text()))


def mounts() -> list[tuple[str, str]]:
    """Where something of this tree is mounted: the service, and what."""
    services = loaded("compose.yaml")["services"]
    return [
        (name, each.split(":")[0])
        for name, service in services.items()
        for each in service["volumes"]
        if each[0] == "."
    ]


def test_four_services_start_each_with_a_check_of_its_health(project: dict[str, Any]) -> None:
    assert project["services"].keys() == {"exporter", "prometheus", "alertmanager", "grafana"}
    assert [name for name, service in project["services"].items() if not service.get("healthcheck")] == []


def test_no_port_can_be_reached_from_elsewhere(project: dict[str, Any]) -> None:
    ports = [port for service in project["services"].values() for port in service["ports"]]
    assert len(ports) == 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_every_image_is_of_one_version(project: dict[str, Any]) -> None:
    images = [service["image"] for service in project["services"].values()]
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+$", image)] == []


def test_the_exporter_runs_hardened_with_its_state_on_a_volume(project: dict[str, Any]) -> None:
    exporter = project["services"]["exporter"]
    assert exporter["read_only"] is True
    assert exporter["cap_drop"] == ["ALL"]
    assert "state:/var/lib/jobrun-exporter" in exporter["volumes"]
    assert exporter["command"][0] in {"demo", "run"}


@pytest.mark.parametrize(("service", "source"), mounts())
def test_what_is_mounted_is_there(service: str, source: str) -> None:
    assert (COMPOSE / source).exists(), service


def test_prometheus_differs_from_the_example_by_the_names_of_services_alone() -> None:
    example = (ROOT / "prometheus/prometheus.yml").read_text()
    renamed = example.replace('["localhost:9797"]', '["exporter:9797"]').replace(
        '["localhost:9093"]', '["alertmanager:9093"]'
    )

    assert loaded("prometheus.yml") == yaml.safe_load(renamed)


def test_prometheus_and_alertmanager_take_their_configuration(tmp_path: Path) -> None:
    shutil.copy(COMPOSE / "prometheus.yml", tmp_path)
    shutil.copytree(ROOT / "prometheus/rules", tmp_path / "rules")
    for command in (
        [needed("promtool"), "check", "config", tmp_path / "prometheus.yml"],
        [needed("amtool"), "check-config", ROOT / "prometheus/alertmanager.yml"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_that_grafanas_provisioning_needs_is_given() -> None:
    texts = [path.read_text() for path in (ROOT / "grafana/provisioning").rglob("*.yml")]
    named = {name for text in texts for name in re.findall(r"(?<!\$)\$\{(\w+)\}", text)}

    assert named
    assert named <= loaded("compose.yaml")["services"]["grafana"]["environment"].keys()
