"""The GitHub workflows: their schema, what a stranger could make them do, and that they call the project's scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def run(command: str, *arguments: object) -> str:
    """Run a command of this environment and return its output; fail unless it ends with 0."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command)), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_fits_the_schema(path: Path) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_zizmor_finds_no_security_problem_in_a_workflow(path: Path) -> None:
    run("zizmor", "--offline", "--no-progress", path)


def test_workflows_call_only_scripts_that_exist() -> None:
    called = {
        word
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        for word in re.findall(r"^(?:\.ci|scripts)/\S+", step.get("run", ""), re.MULTILINE)
    }

    assert called == {".ci/run", "scripts/release"}
    assert [name for name in called if not os.access(ROOT / name, os.X_OK)] == []


def test_every_supported_python_is_tested() -> None:
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())["jobs"]["pythons"]["strategy"]["matrix"]
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())

    assert matrix["python"] == named


def test_a_release_of_another_version_is_refused() -> None:
    done = subprocess.run(
        [ROOT / "scripts/release", "v99.0.0"], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 1
    assert re.fullmatch(r"scripts/release: pyproject.toml has version \S+, not 99\.0\.0\n", done.stderr)
