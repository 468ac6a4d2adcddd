"""CPU of polls and pages, for sources that are polled every minute.

Usage: python -m benchmarks.cpu [JOBS …]
"""

import statistics
import sys

from benchmarks.measure import Figure, cost, minimum_cost, print_table
from benchmarks.render import Pages
from benchmarks.vendor import body, polled_sources, rows
from exporter.model import Result
from exporter.snapshot.job import JobView

GROUP = "CPU of one core, polls each minute"
MINUTE = 60.0
RESULTS = (Result.SUCCESS, Result.FAILURE, Result.SKIP, Result.UNKNOWN)
SOURCES = 100


def measure(*jobs, sources=SOURCES):
    yield idle_sources(sources)
    for number in jobs or (1_000, 10_000):
        yield busy_jobs(number)


def idle_sources(number):
    """Return the figure of idle sources: their responses do not change, and their watermarks move."""
    with polled_sources(number) as many:
        many.pass_hour(40)
        many.poll()
        spent = minimum_cost(lambda: poll_after_a_minute(many))
    note = f"{spent / number * 1e3:.2f} ms per poll, with its transaction"
    return Figure(group=GROUP, what=f"{number} idle sources", value=spent / MINUTE * 100, unit="%", note=note)


def poll_after_a_minute(many):
    many.now += MINUTE
    return many.poll


def busy_jobs(number):
    """Return the figure of jobs that each complete one run per minute, and of their page."""
    with polled_sources() as one:
        shown = Pages()
        costs = [cost(lambda: cpu_of_a_minute(one, shown, number, number)) for _ in range(4)]
        series = sum(shown.exposition.series_by_family().values())
    note = f"{series:,} series, {number:,} completions per minute"
    what = f"{number:,} jobs that complete a run per minute"
    return Figure(group=GROUP, what=what, value=statistics.median(costs[1:]) / MINUTE * 100, unit="%", note=note)


def cpu_of_a_minute(one, pages, jobs, runs):
    """Return the CPU seconds of a poll and its page."""
    begun, one.now = one.now, one.now + MINUTE
    one.api.body = body(rows(runs, begun - 300, MINUTE, jobs=jobs))
    one.poll()
    pages.publish(map(view, one.ledger.jobs_of("source-0")))


def view(state):
    return JobView(state=state, results=RESULTS, has_steps=True)


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:])))
