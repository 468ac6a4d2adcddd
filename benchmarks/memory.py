"""Measure a real daemon's memory after a poll and scrapes, by number of series.

Usage: python -m benchmarks.memory [SERIES …]
"""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import yaml

from benchmarks.measure import Figure, print_table
from benchmarks.render import view
from benchmarks.servers import Scraper, free_port
from exporter.config import loads
from exporter.counting.records import ScopeState, SourceState
from exporter.simulators.generated import GeneratedWorld
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.sources import KNOWN_NAMES, SOURCES
from exporter.state.store import Store

ROOT = Path(__file__).parent.parent
SERIES_PER_JOB = 73
TARGETS = {0: 50, 10_000: 65, 100_000: 140}


def measure(*sizes):
    for size in sizes or TARGETS:
        with daemon(round(size / SERIES_PER_JOB)) as (pid, series):
            resident_bytes = resident(pid)
        label = f"{series:,} series" if size else "idle"
        yield Figure(
            group="memory",
            what=label,
            value=resident_bytes / 1e6,
            unit="MB",
            target=TARGETS.get(size),
            note="resident, after scrapes",
        )


@contextmanager
def daemon(jobs):
    """Run a daemon that has polled, was scraped in both formats, and is idle; yield it and its number of series."""
    with TemporaryDirectory() as name, SnowplowSimulator(GeneratedWorld((), birth=time.time() - 86400)) as simulator:
        folder, port = Path(name), free_port()
        config = {
            "sources": [simulator.source_config("snowplow-prod")],
            "state": {"path": str(folder / "state.db")},
            "metrics": {"zero_first": "0s", "max_series": 1_000_000},
        }
        text = yaml.safe_dump(config)
        (folder / "config.yaml").write_text(text)
        write_state(folder / "state.db", text, jobs)
        command = [sys.executable, "-m", "exporter", "run", f"--config.file={folder / 'config.yaml'}"]
        child = subprocess.Popen(  # noqa: S603  # ours
            [*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"], cwd=ROOT
        )
        try:
            wait_until_ready(port)
            for accept in ("text/plain", "application/openmetrics-text"):
                with Scraper(port, accept=accept) as scraper:
                    scraper()
            time.sleep(7)  # until the page is rendered again
            yield child.pid, series(port)
        finally:
            child.terminate()
            child.wait()


def write_state(path, text, jobs):
    """Write the state after a poll one minute ago."""
    [settings] = loads(text, {}, KNOWN_NAMES).sources
    scope_state = ScopeState(baseline=1.7e9, watermark=time.time() - 60, complete=True)
    source = SourceState(
        name="snowplow-prod",
        identity=SOURCES["snowplow"].identity(settings),
        baseline=1.7e9,
        complete=True,
        scopes={"": scope_state},
        last_sweep=time.time(),
    )
    store = Store(path)
    with store.transaction():
        store.put_source(source)
        store.put_jobs(msgspec.structs.replace(view(key).state, key=key + 1) for key in range(jobs))
    store.close()


def wait_until_ready(port, seconds=60):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready"):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise TimeoutError("the daemon was not ready in time")


def series(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        return sum(not line.startswith(b"#") for line in response)


def resident(pid):
    """Return the resident memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:])))
