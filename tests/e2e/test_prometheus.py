"""A real Prometheus scrapes a real daemon that is killed and restarted."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import LiveWorld, baseline, config, truth
from tests.e2e.processes import Daemon, eventually, free_port, require_tool
from tests.e2e.scrapes import counted, fetch, page, value
from tests.e2e.servers import Prometheus

pytestmark = pytest.mark.e2e

PROTOBUF = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[int, list[Prometheus]]]:
    """Return a port, and servers that scrape it: one prefers OpenMetrics, one protobuf, one is the newest."""
    port = free_port()
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("plain", {}),
        ("native", {"features": "exemplar-storage,native-histograms"}),
        ("newest", {"version": "newest"}),
    ]
    with ExitStack() as stack:
        servers = []
        for name, options in kinds:  # one after the other: if one is missing, the ones before it are stopped
            servers.append(Prometheus(tmp_path / name, port, **options))
            stack.callback(servers[-1].end)
        yield port, servers


def test_increases_in_prometheus_equal_the_completed_runs(
    tmp_path: Path, simulator: SnowplowSimulator, world: LiveWorld, servers: tuple[int, list[Prometheus]]
) -> None:
    port, prometheuses = servers
    config_file = config(tmp_path, simulator, zero_first="1500ms")
    assert all(server.ready() for server in prometheuses)
    begun = time.time()
    for seconds in (3.0, 2.0, 3.5):
        daemon = Daemon(config_file, port)
        time.sleep(seconds)
        daemon.kill()
    daemon = Daemon(config_file, port)
    world.rest()

    expected = truth(simulator, baseline(tmp_path / "state.db"))
    assert eventually(lambda: counted(page(port), "live"), lambda seen: seen == expected) == expected
    time.sleep(3)  # both ends of the range are quiet: nothing rose in the scrapes before and after
    for server in prometheuses:
        assert eventually(server.raw_increases, lambda seen: seen == expected) == expected  # called at once
        assert server.increases(int(time.time() - begun) + 5) == expected
        (up,) = server.ask("query", query="up")
        assert up["value"][1] == "1"

    truly = {run.run_id for run in simulator.truth().endings}
    now = time.time()
    for server in prometheuses:
        for name in ("jobrun_runs_total", "jobrun_run_duration_seconds_bucket"):
            found = server.ask("query_exemplars", query=name, start=now - 600, end=now + 60)
            run_ids = {exemplar["labels"]["run_id"] for series in found for exemplar in series["exemplars"]}
            assert run_ids, f"no exemplars of {name}"
            assert run_ids <= truly
    assert daemon.terminate() == 0


def test_a_scraper_that_asks_for_protobuf_first_gets_openmetrics(tmp_path: Path, simulator: SnowplowSimulator) -> None:
    port = free_port()
    daemon = Daemon(config(tmp_path, simulator), port)
    assert eventually(lambda: page(port))

    accept = (
        f"{PROTOBUF};q=0.7,application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    )
    _, headers, body = fetch(port, headers={"Accept": accept})

    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert daemon.terminate() == 0


def test_promtool_accepts_the_page(tmp_path: Path, simulator: SnowplowSimulator) -> None:
    promtool, port = require_tool("promtool"), free_port()
    daemon = Daemon(config(tmp_path, simulator), port)
    assert eventually(lambda: value(port, 'jobrun_source_up{source="live"}')) == 1
    assert eventually(lambda: sum(counted(page(port), "live").values()) > 5)

    command = [promtool, "check", "metrics"]
    checked = subprocess.run(command, input=page(port).encode(), capture_output=True, check=False)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert daemon.terminate() == 0
