"""Benchmarks run. What they measure is no test."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("name", "size"), [("poll", "20"), ("render", "3"), ("cardinality", "2")])
def test_a_benchmark_runs_and_prints_ratios(name, size):
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", size]
    done = subprocess.run(  # noqa: S603  # a script of ours
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert "x " in done.stdout
