"""The output of `backfill`, made into blocks by promtool, in a real Prometheus that continues with the daemon."""

import subprocess
import time
from pathlib import Path

import pytest

from exporter.model import Result
from exporter.simulators import SIMULATORS
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.world import SimJob
from tests.e2e.live_world import source, truth, write_config
from tests.e2e.processes import HOST, Daemon, eventually, free_port, require_tool, run_command
from tests.e2e.scrapes import fetch
from tests.e2e.servers import Prometheus
from tests.e2e.vendor_traits import traits_of

pytestmark = pytest.mark.e2e

HOUR = 3600.0
JOBS = ("orders", "sessions", "costs")
RESULTS = (Result.SUCCESS, Result.SUCCESS, Result.FAILURE)


def past_world(seconds: float = 20 * HOUR) -> ScriptedWorld:
    """Return a world in which each job ran about every 40 minutes, last a few seconds ago."""
    world, now = ScriptedWorld(), time.time()
    for offset, job in enumerate(JOBS):
        world.add_job(SimJob(job_id=f"prod/{job}", name=job, project="prod"))
        for number in range(int(seconds // 2400)):
            start = round(now - 5 - offset - number * 2400, 3)
            world.run(
                job, start=start, duration=round(2.0 + 40 * (number % 7), 3) if number else 2.0,
                result=RESULTS[(number + offset) % 3], steps=("load", "model"),
            )  # fmt: skip
    return world


def run_backfill(folder: Path, config_file: Path, port: int) -> str:
    """Run `backfill`, and promtool on its output. Return the output."""
    target = f"{HOST}:{port}"
    arguments = (f"--config.file={config_file}", "--output=past.om", "--label", "job=jobruns", f"instance={target}")
    code, output = run_command(folder, "backfill", *arguments)
    assert code == 0, output
    assert "Traceback" not in output
    made = subprocess.run(
        [
            require_tool("promtool"),
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            folder / "past.om",
            folder / "server" / "data",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return (folder / "past.om").read_text()


@pytest.mark.parametrize("vendor", SIMULATORS)
def test_increases_before_and_after_the_first_poll_equal_the_completed_runs(tmp_path: Path, vendor: str) -> None:
    world, port = past_world(), free_port()
    with SIMULATORS[vendor](world, **traits_of(vendor).arguments) as simulator:
        settings = {
            "sources": [source(simulator)],
            "state": {"path": str(tmp_path / "state.db")},
            "metrics": {"zero_first": "1500ms"},
        }
        config_file = write_config(tmp_path, settings)
        daemon = Daemon(config_file, port)
        assert eventually(lambda: fetch_ready(port)), daemon.log
        (tmp_path / "server").mkdir()
        run_backfill(tmp_path, config_file, port)
        server = Prometheus(tmp_path / "server", port)
        try:
            assert server.ready()
            # Runs that end before the daemon's first scrape would increase a counter without a first sample.
            assert eventually(lambda: server.ask("query", query="jobrun_exporter_build_info"))
            for number in range(4):
                world.run(JOBS[number % 3], duration=0.5, result=RESULTS[number % 3], steps=("load", "model"))
            time.sleep(1)
            expected = truth(simulator, time.time() - 24 * HOUR)
            assert sum(count for series, count in expected.items() if series[0] == "jobrun_runs_total") == 94
            assert eventually(lambda: server.raw_increases("2d"), lambda seen: seen == expected, seconds=30) == expected
            (instances,) = server.ask("query", query="count(count by (instance, job) (jobrun_runs_total))")
            assert instances["value"][1] == "1"
        finally:
            server.end()
        assert daemon.terminate() == 0


def fetch_ready(port: int) -> bool:
    try:
        return fetch(port, "/-/ready")[0] == 200
    except OSError:
        return False
