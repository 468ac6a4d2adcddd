"""Cost of rendering `/metrics`, compared with the client library and with copying the bytes.

Usage: python -m benchmarks.render [JOBS]

One job has about 85 series.
"""

import sys

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.measure import Figure, minimum_cost, print_table
from exporter.counting.records import JobState, LastRun
from exporter.counting.series import Exemplar
from exporter.exposition.exposition import Exposition
from exporter.metrics.zero_first import ZeroFirst
from exporter.model import Job, Result
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import Snapshot

RESULTS = (Result.SUCCESS, Result.FAILURE, Result.SKIP, Result.UNKNOWN)
BUCKETS = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)


def view(key, runs=1):
    state = JobState(
        key=key,
        source="snowplow-prod",
        project="production",
        name=f"job-{key:05}",
        job=Job(job_id=f"production/job-{key:05}", name=f"job-{key:05}"),
        discovered=1.7e9,
        baseline=1.7e9,
        last_run=LastRun(run_id="r", result=Result.SUCCESS, order=1.7e9, start=1.7e9, end=1.7e9 + runs, duration=runs),
        last_success=1.7e9 + runs,
    )
    for result in RESULTS:
        state.count("jobrun_runs_total", result, amount=runs).exemplar = Exemplar("r", 1.0, 1.7e9)
    for result in ("success", "failure"):
        durations = state.distribution("jobrun_run_duration_seconds", result, bounds=BUCKETS)
        durations.observe(30.5, Exemplar("r", 30.5, 1.7e9))
        durations.sum += runs
    for step in range(8):
        state.count("jobrun_step_root_failures_total", f"step {step}", amount=0)
        for result in ("success", "failure"):
            state.count("jobrun_steps_total", f"step {step}", result, amount=runs)
    state.expose()
    return JobView(state=state, results=RESULTS, has_steps=True, schedule="0 3 * * *")


class Pages:
    """An exposition, and the views of its page."""

    def __init__(self, views=()):
        self.exposition = Exposition(prometheus_client.CollectorRegistry(), ZeroFirst(0, float))
        self.views = {}
        self.publish(views)

    def publish(self, changed=()):
        """Render a page after views have changed."""
        self.views = self.views | {view.state.key: view for view in changed}
        generation = 0 if self.exposition.page is None else self.exposition.page.generation + 1
        return self.exposition.render(Snapshot(generation=generation, jobs=self.views))


class FixedRegistry:
    """A registry with the families of a text, for the client library."""

    def __init__(self, text):
        self.families = list(text_string_to_metric_families(text))

    def collect(self):
        return self.families


def measure(jobs=1200):
    views = [view(key) for key in range(jobs)]
    pages = Pages(views)
    exposition = pages.exposition
    text = bytes(exposition.page.text)
    changed = [[view(key, runs) for key in range(0, jobs, 100)] for runs in range(2, 9)]

    def one_percent():
        pages.publish(changed[0])
        changed.append(changed.pop(0))

    library = FixedRegistry(text.decode())
    memcpy = minimum_cost(lambda: lambda: bytearray(text))
    whole = minimum_cost(lambda: lambda: Pages(views), 5)
    series = sum(exposition.series_by_family().values())
    many = f"{series / 1000:.0f} k series"
    rows = {
        f"{many}, x memcpy of the text": (whole / memcpy, None),
        "again after 1 % of the jobs changed, x full": (minimum_cost(lambda: one_percent) / whole, 0.25),
        "again after only the registry changed, x full": (minimum_cost(lambda: pages.publish) / whole, None),
        "generate_latest, text alone and not compressed, x full": (
            minimum_cost(lambda: lambda: prometheus_client.generate_latest(library), 2) / whole,
            None,
        ),
    }
    note = f"{len(text) / 1e6:.1f} MB, {whole * 1e3:.0f} ms for both formats, plain and gzip"
    for what, (value, target) in rows.items():
        yield Figure(group="render, CPU", what=what, value=value, target=target, note=note)
        note = ""


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:2])))
