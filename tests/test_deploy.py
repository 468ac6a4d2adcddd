"""The locked dependencies, the Dockerfile and the systemd unit."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from exporter import __version__
from tests.e2e.processes import require_tool

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy/systemd/jobrun-exporter.service"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DRIVER = PROJECT["project"]["optional-dependencies"]["postgres"]
LOCKS = {
    "requirements.lock": PROJECT["project"]["dependencies"] + DRIVER,
    "requirements-build.lock": PROJECT["build-system"]["requires"],
}
LARGEST_EXPOSURE = 1.5
"""By systemd's own reckoning, from 0 (no risk) to 10."""


def locked(text):
    return dict(re.findall(r"^([\w-]+)==([^\s;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_is_locked_to_an_allowed_version(name):
    versions = locked((ROOT / name).read_text())
    wanted = [Requirement(each) for each in LOCKS[name]]

    assert [each.name for each in wanted if each.name not in versions] == []
    assert [each.name for each in wanted if not each.specifier.contains(versions[each.name])] == []


def test_the_image_has_the_driver_of_postgresql_with_its_library_and_the_wheel_has_it_as_an_extra():
    assert "psycopg-binary" in locked((ROOT / "requirements.lock").read_text())
    assert not any("psycopg" in each for each in PROJECT["project"]["dependencies"])


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_dependency_has_hashes_and_no_address(name):
    text = (ROOT / name).read_text()
    parts = re.split(r"^(?=[\w-]+==)", text, flags=re.MULTILINE)[1:]

    assert [part.partition("=")[0] for part in parts if "--hash=sha256:" not in part] == []
    assert "://" not in text


def test_the_image_is_labeled_with_this_version():
    assert f'org.opencontainers.image.version="{__version__}"' in (ROOT / "Dockerfile").read_text()
    assert f"image: jobrun-exporter:{__version__}" in (ROOT / "deploy/compose/compose.yaml").read_text()


@pytest.fixture
def unit(tmp_path):
    """Return the unit, with a program that exists."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/jobrun-exporter/bin/jobrun-exporter", "/bin/true"))
    return path


def analyzed(*arguments):
    command = [require_tool("systemd-analyze"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # a system tool


def test_systemd_has_no_complaint_about_the_unit(unit):
    done = analyzed("verify", unit)

    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_finds_the_unit_little_exposed(unit):
    done = analyzed("security", "--offline=true", unit)

    found = re.search(r"exposure level for \S+: (\S+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= LARGEST_EXPOSURE


def test_the_unit_waits_for_readiness_and_watches():
    text = UNIT.read_text()

    assert {"Type=notify", "WatchdogSec=60", "ExecReload=/bin/kill -HUP $MAINPID"} <= set(text.splitlines())
