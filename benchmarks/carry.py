"""CPU per minute that polls and pages of one process need, simulated at the default interval.

Usage: python -m benchmarks.carry [JOBS …]
"""

import sys

from benchmarks.measure import Figure, cost, least, middle, show
from benchmarks.render import Pages
from benchmarks.vendor import body, polling, rows
from exporter.model import Result
from exporter.snapshot.job import JobView

GROUP = "CPU of one core, polls each minute"
MINUTE = 60.0
RESULTS = (Result.SUCCESS, Result.FAILURE, Result.SKIP, Result.UNKNOWN)
SOURCES = 100


def measure(*jobs, sources=SOURCES):
    yield quiet_sources(sources)
    for number in jobs or (1_000, 10_000):
        yield busy_jobs(number)


def quiet_sources(number):
    """Return idle sources: their responses do not change, and their watermarks move."""
    with polling(number) as many:
        many.hour(40)
        many.poll()
        spent = least(lambda: minute_of(many))
    note = f"{spent / number * 1e3:.2f} ms a poll, with its transaction"
    return Figure(group=GROUP, what=f"{number} quiet sources", value=spent / MINUTE * 100, unit="%", note=note)


def minute_of(many):
    many.now += MINUTE
    return many.poll


def busy_jobs(number):
    """Return jobs that each complete one run per minute, and their page."""
    with polling() as one:
        shown = Pages()
        costs = [cost(lambda: cpu_of_a_minute(one, shown, number, number)) for _ in range(4)]
        series = sum(shown.exposition.series_by_family().values())
    note = f"{series:,} series, {number:,} endings a minute"
    what = f"{number:,} jobs that end a run each minute"
    return Figure(group=GROUP, what=what, value=middle(costs[1:]) / MINUTE * 100, unit="%", note=note)


def cpu_of_a_minute(one, pages, jobs, runs):
    """Return the CPU seconds of a poll and its page."""
    begun, one.now = one.now, one.now + MINUTE
    one.api.body = body(rows(runs, begun - 300, MINUTE, jobs=jobs))
    one.poll()
    pages.publish(map(view, one.ledger.jobs_of("source-0")))


def view(state):
    return JobView(state=state, results=RESULTS, has_steps=True)


if __name__ == "__main__":
    show(measure(*map(int, sys.argv[1:])))
