"""Families in `metrics.exclude` are counted, but not served: without phantom increases when they come back."""

from collections import Counter
from typing import Any

import pytest

from exporter.metrics.families import FAMILIES
from exporter.model import Result, Step
from exporter.snapshot.builder import ConfiguredSource
from tests.core.ledger_harness import DURATIONS, RUNS, ended
from tests.core.page_harness import PageHarness

STEP_DURATIONS = "jobrun_step_duration_seconds"


class ExcludingHarness(PageHarness):
    """A page whose config can be reloaded with other excluded families."""

    def exclude(self, *names, **changes):
        """Reload the config without a restart."""
        metrics = self.config.metrics.model_copy(update={"exclude": names, **changes})
        self.config = self.config.model_copy(update={"metrics": metrics})
        pending_series, exposition, publisher = self.pending_series, self.exposition, self.publisher
        self.configure()
        self.pending_series, self.exposition, self.publisher = pending_series, exposition, publisher
        settings = self.config.sources[0]
        publisher.configure(self.config, {"s": ConfiguredSource(settings=settings, rules=self.rules)})
        publisher.publish()

    def end(self, run_id, result=Result.SUCCESS, **fields):
        self.read(ended(run_id, self.now - 1, result=result, **fields))

    def sizes(self):
        """Return how many series of each family are served."""
        self.publisher.publish()
        return self.exposition.series_by_family()

    def text(self):
        self.publisher.publish()
        page: Any = self.exposition.page
        return bytes(page.text).decode() + bytes(page.openmetrics).decode()


@pytest.fixture
def make(tmp_path):
    made = []

    def build(**fields):
        made.append(ExcludingHarness(tmp_path / f"{len(made)}.db", **fields))
        made[-1].read()  # the baseline
        return made[-1]

    yield build
    for harness in made:
        harness.close()


@pytest.fixture
def harness(make):
    return make()


def results(harness):
    return {result: value for (result,), value in harness.scrape(RUNS, "result").items() if result != "skip"}


def expose(harness):
    """Wait until all series show their value."""
    harness.scrape(RUNS)
    harness.now += 121
    harness.scrape(RUNS)


def families_of(text):
    """Return the names in the TYPE lines of a page, in both formats."""
    return Counter(line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE "))


def test_excluded_families_are_not_served_and_all_others_are(harness):
    harness.end("a")
    before, some = families_of(harness.text()), ["jobrun_source_up", "jobrun_objective_jobs", RUNS, DURATIONS]
    for excluded in (some, [family.name for family in FAMILIES], ["jobrun_exporter_build_info"], []):
        harness.exclude(*excluded)
        bases = {name.removesuffix("_total") for name in excluded}
        assert families_of(harness.text()) == {name: 2 for name in before if name not in bases}
        assert [line for line in harness.text().splitlines() if line.startswith(tuple(bases))] == []


def test_a_family_that_is_served_again_was_counted_meanwhile_and_shows_no_old_run_as_new(harness):
    harness.end("a")
    expose(harness)
    assert results(harness) == {"success": 1, "failure": 0, "unknown": 0}
    harness.exclude(RUNS, DURATIONS)
    harness.end("b")
    harness.end("c", Result.FAILURE)
    harness.publisher.tick()
    harness.exclude()
    assert results(harness) == {"success": 2, "failure": 1, "unknown": 0}
    assert harness.scrape(f"{DURATIONS}_count", "result") == {("success",): 2, ("failure",): 1}


def test_a_series_that_was_pending_when_its_family_was_excluded_shows_its_value_later_even_after_a_restart(harness):
    harness.end("a")
    assert results(harness)["success"] == 0
    harness.exclude(RUNS)
    harness.publisher.tick()
    harness.exclude()
    harness.reopen()
    harness.read()
    assert results(harness)["success"] == 1


def test_a_label_set_that_first_appears_after_its_family_came_back_is_zero_first(harness):
    harness.end("a")
    harness.exclude(RUNS)
    harness.publisher.tick()
    harness.exclude()
    harness.end("b", Result.FAILURE)
    assert results(harness)["failure"] == 0
    harness.now += 121
    assert results(harness)["failure"] == 1


def test_an_excluded_family_needs_no_room(harness):
    harness.read(
        ended("a", harness.now - 1, queue_duration=3.0, error_type="x", result=Result.FAILURE),
        steps={"a": [Step(name="load", result=Result.FAILURE, duration=7.0)]},
    )
    for family in (RUNS, DURATIONS, STEP_DURATIONS, "jobrun_steps_total", "jobrun_run_errors_total"):
        harness.exclude()
        full, served = harness.ledger.committed.series_total, harness.sizes()[family]
        harness.exclude(family)
        assert full - harness.ledger.committed.series_total >= served > 0
    harness.exclude(*(family.name for family in FAMILIES))
    assert harness.ledger.committed.series_total == 0


def test_fewer_jobs_are_folded_while_families_are_excluded(make):
    weight = sum_of_one_job(make())
    for excluded, folded in (((), 1), ((DURATIONS, STEP_DURATIONS), 0)):
        harness = make()
        harness.exclude(*excluded)
        harness.configure(max_series=weight + weight // 2)
        harness.end("a", job_id="first")
        harness.end("b", job_id="second")
        assert sum(job.folded for job in harness.ledger.committed.jobs.values()) == folded


def test_steps_and_error_types_take_no_room_while_their_families_are_excluded(make):
    excluded = ("jobrun_steps_total", "jobrun_step_root_failures_total", STEP_DURATIONS, "jobrun_run_errors_total")
    harness = make()
    harness.exclude(*excluded)
    harness.end("a")
    before = harness.ledger.committed.series_total
    harness.configure(max_series=before)
    steps = [Step(name=f"step {number}", result=Result.FAILURE, duration=7.0) for number in range(20)]
    harness.end("b", Result.FAILURE, error_type="x")
    harness.read(ended("c", harness.now - 1), steps={"c": steps})
    assert harness.ledger.committed.series_total == before
    assert len(harness.ledger.committed.jobs[harness.job().key].step_names()) == 20


def sum_of_one_job(harness):
    harness.end("a")
    return harness.ledger.committed.series_total
