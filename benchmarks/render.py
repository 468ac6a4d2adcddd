"""What making a page costs, against the client library's renderer and against copying the bytes.

    python benchmarks/render.py [JOBS]

One job has about 85 series. Ratios tell; milliseconds depend on the machine.
"""

import statistics
import sys
import time

import prometheus_client
from prometheus_client.parser import text_string_to_metric_families

from exporter.exposition import Exposition
from exporter.holds import Holds
from exporter.jobview import JobView
from exporter.model import Job, Result
from exporter.state import Exemplar, JobState, LastRun

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
        state.count("jobrun_runs_total", result, amount=runs, released=True).exemplar = Exemplar("r", 1.0, 1.7e9)
    for result in ("success", "failure"):
        durations = state.distribution("jobrun_run_duration_seconds", result, bounds=BUCKETS, released=True)
        durations.observe(30.5, Exemplar("r", 30.5, 1.7e9))
        durations.sum += runs
    for step in range(8):
        state.count("jobrun_step_root_failures_total", f"step {step}", amount=0, released=True)
        for result in ("success", "failure"):
            state.count("jobrun_steps_total", f"step {step}", result, amount=runs, released=True)
    return JobView(state=state, results=RESULTS, has_steps=True, schedule="0 3 * * *")


def median_of(work, times=7):
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) * 1000


class Ready:
    """A registry of the same families, for the client library to render."""

    def __init__(self, text):
        self.families = list(text_string_to_metric_families(text))

    def collect(self):
        return self.families


def full(views):
    exposition = Exposition(prometheus_client.CollectorRegistry(), Holds(0, float))
    exposition.update(jobs=views)
    exposition.publish()
    return exposition


def main(jobs):
    views = [view(key) for key in range(jobs)]
    exposition = full(views)
    text = bytes(exposition.page.text)
    changed = [[view(key, runs) for key in range(0, jobs, 100)] for runs in range(2, 9)]

    def one_percent():
        exposition.update(jobs=changed[0])
        changed.append(changed.pop(0))
        exposition.publish()

    library = Ready(text.decode())
    memcpy = median_of(lambda: bytearray(text))
    whole = median_of(lambda: full(views))
    rows = {
        "memcpy of the text": memcpy,
        "full render, both formats, compressed": whole,
        "again after 1 % of the jobs changed": median_of(one_percent),
        "again after nothing but the registry changed": median_of(exposition.publish),
        "generate_latest, text alone, not compressed": median_of(lambda: prometheus_client.generate_latest(library), 3),
    }
    lines = sum(exposition.series_by_family().values())
    print(
        f"{jobs} jobs, {lines} series, {len(text) / 1e6:.1f} MB, {exposition.page.text_gzip.length / 1e6:.2f} MB gzip"
    )
    for name, taken in rows.items():
        print(f"{name:45} {taken:8.1f} ms {taken / memcpy:8.1f} x memcpy {taken / whole:6.2f} x full render")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1200)
