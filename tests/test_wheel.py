"""The wheel and the sdist built from this tree contain all assets."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from exporter import assets

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the folder of wheel and sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603  # our own build
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built, tmp_path_factory):
    """Return the folder of the unpacked wheel."""
    (path,) = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)  # noqa: S202  # just built from this tree
    return folder


def run(wheel, tmp_path, *arguments):
    """Run a command of the unpacked wheel outside of this tree."""
    command = [sys.executable, "-P", "-m", "exporter", *arguments]
    environ = {**os.environ, "PYTHONPATH": str(wheel)}
    return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)  # noqa: S603  # ours


def test_the_wheel_contains_all_assets_and_writes_them(wheel, tmp_path):
    done = run(wheel, tmp_path, "assets", "--output=out")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"out/{name}" for name in assets.names()]
    assert all((tmp_path / "out" / name).read_bytes() == (ROOT / name).read_bytes() for name in assets.names())


def test_the_wheel_contains_the_simulators_and_no_tests(wheel):
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "exporter").rglob("*.py")}
    carried = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*.py")}

    assert "exporter/simulators/demo.py" in carried
    assert carried == source


def test_the_sdist_contains_what_its_tests_need(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        carried = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("tests", "exporter", "docs", "deploy", "scripts", "prometheus", "grafana")
    needed = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    chart = "deploy/helm/jobrun-exporter/files"
    names = {path.relative_to(ROOT).as_posix() for path in needed if path.is_file() and "__pycache__" not in path.parts}

    assert names - carried == set()
    assert {f"{chart}/rules/jobrun-exporter.yml", f"{chart}/dashboards/jobrun-overview.json"} <= carried
    assert {"test", "demo", "Dockerfile", "requirements.lock", "config.example.yaml", "LICENSE"} <= carried
