"""The wheel and the sdist as users get them: built, installed and run outside of the repository."""

import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = "sources: [{name: a, type: strait, auth: {api_key: k}}]\n"


def run(*command: object, folder: Path, seconds: float = 300) -> str:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(each) for each in command],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the sdist and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def command(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command."""
    folder = tmp_path_factory.mktemp("venv")
    (wheel,) = built.glob("*.whl")
    run(sys.executable, "-m", "venv", folder, folder=folder)
    run(folder / "bin/pip", "install", "--quiet", "--require-hashes", "-r", ROOT / "requirements.lock", folder=folder)
    run(folder / "bin/pip", "install", "--quiet", "--no-index", wheel, folder=folder)
    return folder / "bin/jobrun-exporter"


def test_requirements_lock_has_every_dependency(command: Path, tmp_path: Path) -> None:
    assert "No broken requirements" in run(command.parent / "pip", "check", folder=tmp_path)


def test_the_installed_command_writes_rules_and_dashboards(command: Path, tmp_path: Path) -> None:
    files = run(command, "assets", "--output=out", folder=tmp_path).splitlines()

    assert {"out/prometheus/rules/jobrun-exporter.yml", "out/grafana/jobrun-overview.json"} <= set(files)
    assert [
        name for name in files if (tmp_path / name).read_bytes() != (ROOT / name.removeprefix("out/")).read_bytes()
    ] == []


def test_the_installed_command_checks_a_configuration(command: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)

    assert run(command, "check", "--config.file=config.yaml", folder=tmp_path) == "config is valid: 1 source\n"


def test_the_locked_requirements_include_the_driver_of_postgresql(command: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"{CONFIG}\nstate: {{url: 'postgresql://db.example.com/jobrun'}}\n")

    assert run(command, "check", "--config.file=config.yaml", folder=tmp_path) == "config is valid: 1 source\n"


def test_the_installed_command_runs_the_demo(command: Path, tmp_path: Path) -> None:
    arguments = [str(command), "demo", "--web.listen-address=127.0.0.1:0", "--speed=600"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as demo:
        try:
            assert demo.stdout
            url = next(found[1] for line in demo.stdout if (found := re.match(r"metrics: (\S+)", line)))
            assert counted_within(url, 30)
        finally:
            demo.terminate()
        assert demo.wait(10) == 0


def counted_within(url: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with urllib.request.urlopen(url, timeout=10) as answer:
            if re.search(r"^jobrun_runs_total\{.*\} [1-9]", answer.read().decode(), re.MULTILINE):
                return True
        time.sleep(0.5)
    return False


def test_the_tests_run_in_the_unpacked_sdist(built: Path, tmp_path: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()

    output = run(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/test_project.py",
        "tests/test_assets.py",
        "tests/config",
        folder=folder,
    )

    assert re.search(r"\d+ passed", output.splitlines()[-1])
