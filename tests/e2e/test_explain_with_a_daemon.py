"""`explain` and the JSON pages while a daemon counts."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from exporter.simulators.disruptions import Hang
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import LiveWorld, baseline, config, truth
from tests.e2e.processes import Daemon, eventually, free_port, mount, run_command, runs_as_root, unmount
from tests.e2e.scrapes import counted, fetch, page

pytestmark = pytest.mark.e2e

TOTALS = re.compile(r"^(\d+) runs? listed, (\S+) together; the state says (\S+): (.+)\.$", re.MULTILINE)


@pytest.fixture
def mounted_folder(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that is a file system, so that a test can make it read-only."""
    folder = tmp_path / "mounted_folder"
    folder.mkdir()
    if not (runs_as_root() and mount("-t", "tmpfs", "-o", "size=16m", "none", str(folder))):
        pytest.skip("file systems can only be mounted by root")
    yield folder
    unmount(folder)


def explained(folder: Path, config_file: Path, selector: str) -> tuple[int, str]:
    return run_command(folder, "explain", f"--config.file={config_file}", selector)


def counting(port: int, least: int = 10) -> bool:
    """Wait until a number of runs is counted."""
    return eventually(lambda: counted(page(port), "live").total() >= least)


def test_numbers_are_explained_while_the_daemon_counts(
    tmp_path: Path, simulator: SnowplowSimulator, world: LiveWorld
) -> None:
    config_file = config(tmp_path, simulator)
    daemon = Daemon(config_file, free_port())
    assert counting(daemon.port)
    for _ in range(3):
        code, text = explained(tmp_path, config_file, "jobrun_runs_total")
        assert code == 0, text
        assert {match[4] for match in TOTALS.finditer(text)} == {"the same"}
    world.rest()
    expected = truth(simulator, baseline(tmp_path / "state.db"))
    assert eventually(lambda: counted(page(daemon.port), "live"), lambda seen: seen == expected) == expected
    runs = sum(number for series, number in expected.items() if series[0] == "jobrun_runs_total")
    _, text = explained(tmp_path, config_file, "jobrun_runs_total")
    assert sum(int(match[1]) for match in TOTALS.finditer(text)) == runs
    assert "Traceback" not in daemon.log
    assert daemon.terminate() == 0
    code, text = explained(tmp_path, config_file, "jobrun_runs_total")
    assert (code, sum(int(match[1]) for match in TOTALS.finditer(text))) == (0, runs)


def test_a_state_on_a_read_only_file_system_is_explained_with_a_note(
    mounted_folder: Path, tmp_path: Path, simulator: SnowplowSimulator
) -> None:
    config_file = config(tmp_path, simulator, mounted_folder / "state.db")
    daemon = Daemon(config_file, free_port())
    assert counting(daemon.port)
    assert daemon.terminate() == 0
    assert mount("-o", "remount,ro", str(mounted_folder))
    code, text = explained(tmp_path, config_file, "jobrun_runs_total")
    assert code == 0, text
    assert {match[4] for match in TOTALS.finditer(text)} == {"the same"}
    assert "journal cannot be read" in text


def test_explain_says_so_if_there_is_no_state(tmp_path: Path, simulator: SnowplowSimulator) -> None:
    code, text = explained(tmp_path, config(tmp_path, simulator), "jobrun_runs_total")
    assert code == 1
    assert "there is no state, or it cannot be read" in text
    assert not (tmp_path / "state.db").exists()


def test_the_json_pages_show_what_is_counted(tmp_path: Path, simulator: SnowplowSimulator) -> None:
    daemon = Daemon(config(tmp_path, simulator), free_port())
    assert counting(daemon.port)
    reports = {
        name: json.loads(fetch(daemon.port, f"/api/v1/{name}")[2]) for name in ("sources", "jobs", "runs", "problems")
    }
    assert reports["sources"]["sources"][0]["up"] is True
    assert reports["jobs"]["total"] == len(reports["jobs"]["jobs"]) > 0
    for run in reports["runs"]["runs"][:5]:
        status, _, body = fetch(daemon.port, "/api/v1" + run["url"])
        assert (status, json.loads(body)["run"]["run_id"]) == (200, run["run_id"])
    assert fetch(daemon.port, "/api/v1/openapi.json")[0] == 200
    assert daemon.terminate() == 0


def test_a_hanging_vendor_query_delays_neither_scrapes_nor_the_shutdown(
    tmp_path: Path, simulator: SnowplowSimulator
) -> None:
    config_file = config(tmp_path, simulator)
    settings = yaml.safe_load(config_file.read_text())
    settings["web"] = {"logs": True}
    settings["sources"][0]["steps"] = "off"
    config_file.write_text(yaml.safe_dump(settings))
    daemon = Daemon(config_file, free_port())
    assert counting(daemon.port)
    run = json.loads(fetch(daemon.port, "/api/v1/runs?result=failure&limit=1")[2])["runs"][0]
    simulator.disruptions.add(Hang(endpoint="steps"))
    begun = time.monotonic()
    status, _, body = fetch(daemon.port, f"/api/v1{run['url']}?live=true", timeout=15)
    assert (status, json.loads(body)["steps_error"]) == (200, "the API did not respond within 4 s")
    assert 3 < time.monotonic() - begun < 10
    begun = time.monotonic()
    assert fetch(daemon.port)[0] == 200
    assert daemon.terminate() == 0
    assert time.monotonic() - begun < 5
