"""Counters equal the runs that a source showed, in any order of rows and no matter when the process ends."""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from exporter.errors import StateError
from exporter.model import Result, Run, State, one_row_per_run
from tests.core.ledger_harness import BASELINE, DURATIONS, RUNS, Failing, FailingPool
from tests.core.page_harness import PageHarness

JOBS = ("a", "b")
RESULTS = (Result.SUCCESS, Result.FAILURE, Result.SKIP)


class Counting(RuleBasedStateMachine):
    """Runs start and end; the API shows any of their past states; the process fails and restarts."""

    reopens = False
    database = ""
    commits = ("succeed", "succeed", "succeed", "fail")

    def new_state(self):
        """Return where the ledger keeps its state: the emptied database, or a new file."""
        if not self.database:
            return self.folder / "state.db"
        with psycopg.connect(self.database) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.database

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.harness = PageHarness(self.new_state(), reopens=self.reopens)
        self.harness.read()
        self.lives: dict[str, list[Run]] = {}
        self.counted: set[tuple[str, float | None]] = set()
        self.expected = Counter()
        self.durations = 0
        self.last: dict[tuple, float] = {}
        self.steps = 0.0
        for job in JOBS:
            self.lives[f"old-{job}"] = [self.made(f"old-{job}", job, BASELINE - 900, BASELINE - 100, Result.FAILURE)]

    def made(self, run_id, job, start, end=None, result=None):
        state = None if result else State.EXECUTING
        duration = None if end is None else end - start
        return Run(run_id=run_id, job_id=job, state=state, result=result, start=start, end=end, duration=duration)

    @rule(job=st.sampled_from(JOBS))
    def a_run_starts(self, job):
        name = f"run-{len(self.lives)}"
        self.lives[name] = [self.made(name, job, self.harness.now)]
        self.harness.now += 1

    @precondition(lambda self: any(life[-1].result is None for life in self.lives.values()))
    @rule(data=st.data(), result=st.sampled_from(RESULTS), has_end=st.booleans())
    def a_run_ends(self, data, result, has_end):
        name = data.draw(st.sampled_from(sorted(key for key, life in self.lives.items() if life[-1].result is None)))
        self.harness.now += 1
        life = self.lives[name]
        end = self.harness.now if has_end or self.reopens else None
        life.append(self.made(name, life[0].job_id, life[0].start, end, result))

    @precondition(lambda self: any(life[-1].result is not None for life in self.lives.values()))
    @rule(data=st.data(), result=st.sampled_from(RESULTS))
    def an_ending_is_told_otherwise(self, data, result):
        name = data.draw(
            st.sampled_from(sorted(key for key, life in self.lives.items() if life[-1].result is not None))
        )
        last = self.lives[name][-1]
        self.lives[name][-1] = self.made(name, last.job_id, last.start, last.end, result)

    @rule(data=st.data())
    def the_api_shows_some(self, data):
        every = [run for life in self.lives.values() for run in life]
        shown = data.draw(st.lists(st.sampled_from(every), max_size=8))
        commits = data.draw(st.sampled_from(self.commits))
        if commits == "succeed":
            self.harness.read(*shown)
        else:
            self.read_in_vain(commits, shown)
        if commits == "get no response":
            self.harness.read(*shown)  # the first commit of the poll may be in the state
        if commits != "fail":
            self.shown(shown)

    def read_in_vain(self, commits, shown):
        Failing.fails, FailingPool.loses = commits == "fail", commits == "get no response"
        with pytest.raises(StateError):
            self.harness.read(*shown)
        Failing.fails = FailingPool.loses = False
        self.harness.now += 60

    def shown(self, runs):
        """Return the completions that these rows of one poll must add, in the order of their ends."""
        for run in sorted(one_row_per_run(runs), key=lambda run: run.end if run.end is not None else run.start or 0.0):
            key = (run.run_id, run.end if self.reopens else None)
            if run.result is None or key in self.counted:
                continue
            self.counted.add(key)
            if run.end is None or run.end > BASELINE:
                self.expected[run.job_id, str(run.result)] += 1
                self.durations += run.duration is not None

    @rule(seconds=st.sampled_from((1.0, 40.0, 130.0)))
    def time_passes(self, seconds):
        self.harness.now += seconds

    @rule()
    def the_process_restarts(self):
        self.harness.reopen()

    @rule()
    def a_scrape(self):
        for key, value in self.harness.scrape(RUNS, "job_name", "result").items():
            before = self.last.get(key)
            if before is not None:
                assert value >= before, "a counter fell"
                self.steps += value - before
            self.last[key] = value

    @invariant()
    def counters_equal_the_truth(self):
        if not hasattr(self, "harness"):
            return
        found, durations = Counter(), 0
        for job in self.harness.ledger.jobs_of("s"):
            found.update({(job.name, result): int(c.value) for result, c in job.counts[RUNS].items() if c.value})
            durations += sum(sum(each.counts) for each in job.distributions.get(DURATIONS, {}).values())
        assert found == self.expected
        assert durations == self.durations

    def teardown(self):
        if not hasattr(self, "harness"):
            return
        self.harness.poll()
        self.harness.publisher.publish()
        for _ in range(4):
            self.a_scrape()
            self.harness.now += 121
        self.a_scrape()
        assert self.steps == sum(self.expected.values()), "increase() would not see all endings"
        self.harness.close()
        shutil.rmtree(self.folder)


class Reopening(Counting):
    """The same for a vendor that can reopen completed runs under their ID."""

    reopens = True

    @precondition(lambda self: any(life[-1].result is not None for life in self.lives.values()))
    @rule(data=st.data())
    def a_run_comes_back(self, data):
        name = data.draw(
            st.sampled_from(sorted(key for key, life in self.lives.items() if life[-1].result is not None))
        )
        self.harness.now += 1
        self.lives[name].append(self.made(name, self.lives[name][0].job_id, self.harness.now))


COMMON = settings(
    max_examples=20, stateful_step_count=25, suppress_health_check=list(HealthCheck), derandomize=True, deadline=None
)


@pytest.mark.parametrize("machine", [Counting, Reopening])
def test_counters_equal_the_truth_with_a_file(machine):
    run_state_machine_as_test(machine, settings=COMMON)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("machine", [Counting, Reopening])
def test_counters_equal_the_truth_with_postgresql(machine, url):
    shared = type("Shared", (machine,), {"database": url, "commits": (*machine.commits, "get no response")})
    few = settings(COMMON, max_examples=6, phases=[Phase.generate])  # to shrink an example would take minutes
    run_state_machine_as_test(shared, settings=few)
