"""How costs grow with size: the exponent of a power law that fits the costs of doubling sizes.

Usage: python -m benchmarks.growth [SMALLEST]
"""

import itertools
import sys
from contextlib import contextmanager
from pathlib import Path

from benchmarks.customers import poll_of
from benchmarks.measure import Figure, exponent, minimum_cost, print_table
from benchmarks.memory import SERIES_PER_JOB, daemon, resident
from benchmarks.render import Pages, view
from benchmarks.vendor import body, polled_sources, rows, stamp
from exporter.assembly import counting_rules, rules_of
from exporter.config import loads
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.model import Batch, Job, Result, Run, Step
from exporter.sources import KNOWN_NAMES
from exporter.sources.snowplow.source import EVENT_LIMIT
from exporter.state.opening import open_state

DOUBLINGS = (1, 2, 4, 8)
NOW = 1_780_000_000.0
CONFIG = """
sources: [{name: s, type: snowplow, organization_id: o, auth: {api_key: k}}]
metrics: {max_series: 10000000}
"""


def measure(smallest=EVENT_LIMIT + 1, *, memory=True):
    jobs = max(1, smallest // 50)
    yield fitted("poll, known runs", known, smallest, "runs per response")
    yield fitted("poll, new runs", lambda runs: new(runs, 100), smallest, "runs per response")
    yield fitted("poll, new runs", lambda each: new(smallest, each), jobs, "jobs of as many runs")
    yield fitted("poll, known runs", lambda each: sources(each, smallest // 10), 2, "sources")
    yield fitted(
        "poll of Workato without client and state",
        lambda each: minimum_cost(poll_of(each), 3),
        max(4, smallest // 50),
        "customers",
    )
    yield fitted("render of all", rendered, jobs, "jobs")
    yield fitted("render of one job", rendered_again, jobs, "jobs")
    yield fitted("steps of a run", steps, jobs, "steps", target=1.1)
    yield fitted("idle poll", scopes, jobs, "scopes", target=1.1)
    if memory:
        yield fitted("memory above idle", memory_of_jobs, 250, "jobs")


def fitted(what, costs, smallest, unit, target=1.05):
    sizes = [smallest * factor for factor in DOUBLINGS]
    taken = [costs(size) for size in sizes]
    note = f"{sizes[0]:,} to {sizes[-1]:,} {unit}: {taken[-1] / taken[0]:.1f} x as much for 8 x as many"
    return Figure(
        group="growth, exponent", what=f"{what}, with {unit}", value=exponent(sizes, taken), target=target, note=note
    )


def known(runs):
    """Return the cost of a poll of known runs, one of which has changed."""
    with polled_sources() as one:
        return minimum_cost(poll_with_a_changed_run(one, runs), 5)


def poll_with_a_changed_run(one, runs):
    seen = one.pass_hour(runs)
    running = rows(1, one.now, state="RUNNING")[0]

    def change():
        one.now += 1
        one.api.body = body([*seen, {**running, "startTime": stamp(one.now)}])
        return one.poll

    change()()
    return change


def new(runs, jobs):
    """Return the cost of a poll of new runs."""

    def more():
        one.pass_hour(runs, jobs)
        return one.poll

    with polled_sources() as one:
        return minimum_cost(more, 4)


def sources(number, runs):
    """Return the cost of a poll of several sources with known runs."""
    with polled_sources(number) as many:
        return minimum_cost(poll_with_a_changed_run(many, runs), 5)


def steps(number):
    """Return the cost to commit a run with many steps."""
    with ledger_of_one_source() as ledger:
        count = [0]

        def another():
            count[0] += 1
            run = Run(run_id=f"r{count[0]}", job_id="j", result=Result.SUCCESS, start=NOW + 1, end=NOW + 2)
            taken = [Step(name=f"step {each}", result=Result.SUCCESS, duration=1.0) for each in range(number)]
            poll_context = PollContext(now=NOW + 10 + count[0], started=NOW + count[0])
            batch = Batch(jobs=[Job(job_id="j", name="j")], runs=[run], steps={run.run_id: taken})
            return lambda: ledger.commit("s", batch, poll_context)

        return minimum_cost(another, 4)


def scopes(number):
    """Return the cost of an idle poll of a source with this many scopes, each read separately."""
    with ledger_of_one_source() as ledger:
        poll = idle_poll(ledger, "s", number, NOW)
        poll()
        return minimum_cost(lambda: poll, 3)


def idle_poll(ledger, source, scopes, start):
    """Return a function that polls a source without news, a minute later each time. `start`: time before it."""
    count = itertools.count(1)

    def poll():
        now = start + 60 * next(count)
        poll_context = PollContext.at(now)
        ledger.start_poll(source, now)
        for each in range(scopes):
            job = Job(job_id=f"j{each}", name="j", project=f"p{each}", scope=f"s{each}")
            ledger.commit(source, Batch(scope=f"s{each}", jobs=[job], catalog=True, through=now - 60), poll_context)
        ledger.expire_open_runs(source, poll_context)
        ledger.complete_poll(source, poll_context, swept=False)

    return poll


@contextmanager
def ledger_of_one_source():
    """Yield a ledger that a benchmark fills itself, with one configured source."""
    config = loads(CONFIG, {}, KNOWN_NAMES)
    ledger = Ledger(lambda: open_state(Path(":memory:"), lambda: NOW))
    ledger.load()
    ledger.configure({"s": rules_of(config.sources[0], config)}, counting_rules(config), "on")
    ledger.start_poll("s", NOW)
    yield ledger
    ledger.close()


def rendered(jobs):
    views = [view(key) for key in range(jobs)]
    return minimum_cost(lambda: lambda: Pages(views), 3)


def rendered_again(jobs):
    pages, runs = Pages([view(key) for key in range(jobs)]), [1]

    def change():
        runs[0] += 1
        changed = view(0, runs[0])

        return lambda: pages.publish([changed])

    return minimum_cost(change)


def memory_of_jobs(jobs):
    """Return the bytes of memory that a daemon needs for a number of jobs, in addition to an idle one."""
    with daemon(0) as (idle, _):
        base = resident(idle)
    with daemon(jobs) as (pid, _):
        return resident(pid) - base


if __name__ == "__main__":
    print(f"A job has about {SERIES_PER_JOB} series.")
    print_table(measure(*map(int, sys.argv[1:2])))
