"""Cost of jobs for Prometheus and the exporter: series, page size, memory and state, with and without step histograms.

Usage: python -m benchmarks.cardinality [JOBS …]

Each job has 8 steps, and has succeeded once and failed once. The exporter's real code polls a fake Snowplow API with
prepared responses. Series and bytes are the same on any machine; memory is the peak of the process, including the first
poll.
"""

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from benchmarks.measure import Figure, print_table
from benchmarks.vendor import TOKEN, stamp
from exporter.assembly import Assembly, Clocks, counting_rules
from exporter.config import loads
from exporter.exposition.exposition import Exposition
from exporter.exposition.publisher import Publisher
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.metrics.zero_first import ZeroFirst
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state

SIZES = (10, 100, 1000)
STEPS = 8
SECONDS = 3000
"""Seconds between the first and the second poll; all runs happen in between."""

CONFIG = """
sources:
  - name: snowplow-prod
    type: snowplow
    organization_id: acme
    auth: {{api_key: benchmark}}
    poll_interval: 1h
    requests_per_minute: 1000000
metrics: {{max_series: 1000000, zero_first: 0s, step_histograms: "{histograms}"}}
"""


class Cost(NamedTuple):
    """Cost of a number of jobs; sizes in bytes."""

    series: int
    plain: int
    gzip: int
    openmetrics: int
    memory: int
    state: int


def run(number, job, start, *, failed):
    return {
        "runId": f"{number:064x}",
        "jobId": f"{job:064x}",
        "jobName": f"warehouse-model-{job:04}",
        "environment": "com.acme-prod1",
        "state": "FAILED" if failed else "SUCCEEDED",
        "startTime": stamp(start),
        "duration": "PT42.5S",
        "failureReason": None,
    }


def steps(*, failed):
    """Return eight steps in sequence; in a failed run the sixth failed and later ones were skipped."""
    states = ["SUCCEEDED"] * 5 + (["FAILED", "SKIPPED", "SKIPPED"] if failed else ["SUCCEEDED"] * 3)
    return [
        {"name": f"run-model-{index}", "state": state, "dependencies": [], "duration": "PT5S"}
        for index, state in enumerate(states)
    ]


class Api:
    """A fake API: returns lists by their window, and steps by the run's state."""

    def __init__(self):
        self.runs = []

    def __call__(self, request):
        path = request.url.path
        if "token" in path:
            return httpx.Response(200, json=TOKEN)
        if path.endswith("/steps"):
            failed = int(path.split("/")[-2], 16) % 2 == 1
            return httpx.Response(200, content=json.dumps(steps(failed=failed)))
        window = request.url.params
        begin, end = window["from"], window["to"]
        shown = [row for start, row in self.runs if begin <= start < end]
        return httpx.Response(200, content=json.dumps(shown))

    def add_runs(self, jobs, runs_each, begin):
        """Add runs that alternately succeed and fail, evenly spread over the time between two polls."""
        count = jobs * runs_each
        for number in range(count):
            start = begin + 60 + number * (SECONDS - 240) / count
            row = run(number, number // runs_each, start, failed=number % 2 == 1)
            self.runs.append((row["startTime"], row))


def cost(jobs, histograms, runs_each=2):
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    api, now = Api(), [time.time() - SECONDS]
    outside = Clocks(transport=httpx.MockTransport(api), clock=lambda: now[0])
    config = loads(CONFIG.format(histograms=histograms), {}, KNOWN_NAMES)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.db"
        ledger = Ledger(lambda: open_state(state, time.time))
        ledger.load()
        metrics, pending_series = RequestMetrics(registry), ZeroFirst(0, time.monotonic)
        exposition = Exposition(registry, pending_series)
        publisher = Publisher(ledger, exposition, pending_series, monotonic=time.monotonic)
        assembly = Assembly(config, ledger, metrics, publisher, outside)
        rules = {name: shown.rules for name, shown in assembly.configured.items()}
        ledger.configure(rules, counting_rules(config), histograms)
        publisher.configure(config, assembly.configured)
        poll = assembly.scheduled[0].poller.poll
        poll()
        api.add_runs(jobs, runs_each, now[0])
        now[0] += SECONDS
        assert poll() == "success"
        publisher.publish()
        page = exposition.page
        text = bytes(page.text)
        measured = [line.rsplit(b" ", 1) for line in text.splitlines() if line.startswith(b"jobrun_runs_total{")]
        counted = sum(float(value) for _, value in measured)
        assert counted == runs_each * jobs, f"{counted:g}: not all completions were counted"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        size = ledger.store().size()
        ledger.close()
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    return Cost(series, len(text), page.text_gzip.length, page.openmetrics.length, memory, size)


def cost_in_process(*arguments):
    """Return the cost, measured in a separate process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(cost, arguments)


def measure(*sizes):
    nothing = cost_in_process(0, "off")
    for jobs in sizes or SIZES:
        for histograms in ("off", "on"):
            yield figure(jobs, histograms, cost_in_process(jobs, histograms), nothing)
    few, many = cost_in_process(10, "off", 2), cost_in_process(10, "off", 12)
    grown = (many.state - few.state) / 100
    yield Figure(group="state", what=f"a run with {STEPS} steps", value=grown, unit="bytes")


def figure(jobs, histograms, measured, nothing):
    sizes = {
        "page": measured.plain,
        "gzip": measured.gzip,
        "OpenMetrics": measured.openmetrics,
        "state": measured.state,
    }
    kilobytes = ", ".join(f"{name} {size / 1e3:,.0f} kB" for name, size in sizes.items())
    each = (measured.series - nothing.series) / jobs
    return Figure(
        group="cardinality",
        what=f"{jobs:,} jobs, step histograms {histograms}",
        value=measured.series,
        unit="series",
        note=f"{each:.0f} per job; {kilobytes}; memory {measured.memory / 1e6:.0f} MB",
    )


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:])))
