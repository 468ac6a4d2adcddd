"""The image, built and run as docs/install.md says: only the state can be written, without capabilities and root."""

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = os.environ.get("JOBRUN_ENGINE", "podman")
BUILD = os.environ.get("JOBRUN_BUILD", f"{ENGINE} build").split()
TAG = "localhost/jobrun-exporter:test"
HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges")
SIMULATOR = "from exporter.simulators.serve import serve; serve('snowplow', '127.0.0.1', 8080, speed=120.0)"
CONFIG = """
sources:
  - name: simulated
    type: snowplow
    base_url: http://127.0.0.1:8080
    organization_id: 5a7e9c1e-0000-4000-8000-000000000000
    auth: {api_key_id: simulated-key-id, api_key_file: /run/secrets/api_key}
    poll_interval: 1s
    settle: 1s
    requests_per_minute: 6000
metrics: {zero_first: 0s}
"""
LARGEST = 50
"""Megabytes that the image may have beyond its base; the driver of PostgreSQL takes 8 of them."""


def engine(*arguments: str) -> str:
    done = subprocess.run([ENGINE, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{ENGINE} {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def eventually(look: Callable[[], object], seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not (seen := look()) and time.monotonic() < until:
        time.sleep(0.5)
    return bool(seen)


@pytest.fixture(scope="module")
def image() -> str:
    done = subprocess.run([*BUILD, "--tag", TAG, str(ROOT)], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return TAG


@pytest.fixture
def run(image: str) -> Iterator[Callable[..., str]]:
    """Runs a container in the background; its name. `options` are the engine's, `arguments` the exporter's."""
    names: list[str] = []

    def run(*options: str, arguments: tuple[str, ...] = ()) -> str:
        name = f"jobrun-test-{uuid.uuid4().hex[:8]}"
        engine("run", "--detach", "--pull=never", "--name", name, *HARDENED, *options, image, *arguments)
        names.append(name)
        return name

    yield run
    for name in reversed(names):
        subprocess.run([ENGINE, "kill", name], capture_output=True, check=False)  # some have ended already
        engine("rm", "--force", "--volumes", name)


@pytest.fixture
def volume() -> Iterator[str]:
    name = f"jobrun-test-{uuid.uuid4().hex[:8]}"
    engine("volume", "create", name)
    yield name
    engine("volume", "rm", "--force", name)


@pytest.fixture
def start(run: Callable[..., str], volume: str, tmp_path: Path) -> Callable[[], tuple[str, str]]:
    """Starts the daemon on its volume; its container and its address. The simulator lives as long as the test."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "api_key").write_text("simulated-key\n")
    simulator = run("--publish=127.0.0.1::9797", "--entrypoint=python", arguments=("-c", SIMULATOR))
    address = engine("port", simulator, "9797/tcp")

    def start() -> tuple[str, str]:
        mounts = (
            f"--volume={volume}:/var/lib/jobrun-exporter",
            f"--volume={tmp_path}/config.yaml:/etc/jobrun-exporter/config.yaml:ro",
            f"--volume={tmp_path}/api_key:/run/secrets/api_key:ro",
        )
        return run(f"--network=container:{simulator}", *mounts), address

    return start


def page(address: str, path: str = "/metrics") -> str:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError):
        return ""


def counters(address: str) -> dict[str, float]:
    found = re.findall(r"^(jobrun_runs_total\{.*\}) (\S+)$", page(address), re.MULTILINE)
    return {series: float(value) for series, value in found}


def endings(address: str) -> float:
    return sum(counters(address).values())


def healthy(container: str) -> bool:
    return subprocess.run([ENGINE, "healthcheck", "run", container], capture_output=True, check=False).returncode == 0


def inspected(name: str, form: str) -> str:
    return engine("inspect", "--format", form, name)


def test_the_image_is_small_and_labeled(image: str) -> None:
    base = re.search(r"ARG PYTHON_IMAGE=(\S+)", (ROOT / "Dockerfile").read_text())
    assert base
    added = (int(inspected(image, "{{.Size}}")) - int(inspected(base[1], "{{.Size}}"))) / 1e6
    print(f"{added:.1f} MB beyond the base image")  # noqa: T201  # prints what belongs into the docs

    assert added < LARGEST
    assert inspected(image, "{{.Config.User}}") == "65532:65532"
    assert json.loads(inspected(image, "{{json .Config.ExposedPorts}}")) == {"9797/tcp": {}}
    assert json.loads(inspected(image, "{{json .Config.Volumes}}")) == {"/var/lib/jobrun-exporter": {}}
    assert engine("run", "--rm", "--pull=never", *HARDENED, image, "--version").startswith("jobrun-exporter ")


def test_a_killed_container_continues_counting_from_its_volume(start: Callable[[], tuple[str, str]]) -> None:
    first, address = start()
    assert eventually(lambda: endings(address) > 5), engine("logs", first)
    assert healthy(first)
    before = counters(address)
    engine("kill", "--signal=KILL", first)

    second, address = start()
    assert eventually(lambda: "ok" in page(address, "/-/ready")), engine("logs", second)
    after = counters(address)
    assert {series for series, value in before.items() if after.get(series, -1) < value} == set()
    assert eventually(lambda: endings(address) > sum(before.values()))

    begun = time.monotonic()
    engine("stop", "--time=10", second)
    assert time.monotonic() - begun < 6
    assert inspected(second, "{{.State.ExitCode}}") == "0", engine("logs", second)


def test_a_frozen_daemon_is_unhealthy(start: Callable[[], tuple[str, str]]) -> None:
    container, address = start()
    assert eventually(lambda: page(address))
    engine("pause", container) if ENGINE == "docker" else engine("kill", "--signal=STOP", container)

    assert not healthy(container)


def test_only_the_state_can_be_written(start: Callable[[], tuple[str, str]]) -> None:
    container, address = start()
    assert eventually(lambda: page(address))
    attempt = "import os; print(os.getuid(), *(os.access(each, os.W_OK) for each in ('/', '/opt', '.')))"

    assert engine("exec", container, "python", "-c", attempt) == "65532 False False True"
    capabilities = engine("exec", container, "grep", "-E", "^Cap(Eff|Prm|Bnd)", "/proc/1/status")
    assert re.findall(r"[1-9a-f]", re.sub(r"Cap\w+", "", capabilities)) == []


def test_the_demo_runs_in_the_image(run: Callable[..., str]) -> None:
    container = run("--publish=127.0.0.1::9797", "--tmpfs=/tmp", arguments=("demo", "--speed=600"))
    address = engine("port", container, "9797/tcp")

    assert eventually(lambda: endings(address) > 20), engine("logs", container)


@pytest.mark.usefixtures("image")
def test_two_builds_of_one_source_have_equal_files() -> None:
    files = "cd /opt/jobrun-exporter && find . -type f -exec sha256sum {} + | sort && find . -printf '%p %T@\\n' | sort"
    command = ("run", "--rm", "--pull=never", "--entrypoint=sh", TAG, "-c", files)
    first = engine(*command)
    done = subprocess.run(
        [*BUILD, "--no-cache", "--tag", TAG, str(ROOT)], capture_output=True, check=False, timeout=900
    )
    assert done.returncode == 0

    second = engine(*command)
    assert [line for line in first.splitlines() if line not in set(second.splitlines())] == []
