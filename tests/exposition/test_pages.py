"""The times at which pages are rendered, and their content."""

import threading

import prometheus_client
import pytest

from exporter.counting.names import RUN_DURATION, STEP_DURATION
from exporter.counting.records import Counted
from exporter.counting.series import Exemplar
from exporter.exposition.exposition import COLLECT_INTERVAL
from exporter.metrics.zero_first import ZeroFirst
from tests.exposition.view_builders import Pages, count, distribution, job, lines_of, view


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def exposition(registry, pending_series):
    return Pages(registry, pending_series)


def runs(amount, key=1, *, released=True):
    state = job(key=key, name=f"job-{key}")
    count(state, "jobrun_runs_total", "success", amount=amount, released=released)
    return view(state)


def test_there_is_no_page_before_the_first_is_published(exposition):
    exposition.update(jobs=[runs(1)])
    assert exposition.page is None


def test_a_change_is_visible_with_the_next_page_only(exposition):
    exposition.update(jobs=[runs(1)])
    before = exposition.publish()
    exposition.update(jobs=[runs(2)])
    assert exposition.page is before
    assert lines_of(exposition.publish(), "jobrun_runs_total")[0].endswith(" 2.0")
    assert lines_of(before, "jobrun_runs_total")[0].endswith(" 1.0")


def test_generations_grow(exposition):
    assert exposition.publish().generation < exposition.publish().generation


def test_a_changed_job_keeps_its_place(exposition):
    exposition.update(jobs=[runs(1, key) for key in (1, 2, 3)])
    exposition.update(jobs=[runs(9, 2)])
    assert [line[-3:] for line in lines_of(exposition.publish(), "jobrun_runs_total")] == ["1.0", "9.0", "1.0"]


def test_a_page_equals_one_made_from_scratch(exposition, registry):
    exposition.update(jobs=[runs(1, key) for key in range(5)])
    exposition.publish()
    exposition.update(jobs=[runs(7, 3)], removed_jobs=[0])
    fresh = Pages(registry, ZeroFirst(0, float))
    fresh.update(jobs=[runs(7 if key == 3 else 1, key) for key in range(1, 5)])
    page, expected = exposition.publish(), fresh.publish()
    assert bytes(page.text) == bytes(expected.text)
    assert bytes(page.openmetrics_gzip) == bytes(expected.openmetrics_gzip)


def test_families_that_did_not_change_are_shared_by_pages_and_formats(exposition):
    exposition.update(jobs=[runs(1)])
    before = exposition.publish()
    exposition.update(jobs=[runs(2)])
    after = exposition.publish()
    info = [
        next(part for part in body.parts if part.startswith(b"jobrun_job_info{"))
        for body in (before.text, before.openmetrics, after.text, after.openmetrics)
    ]
    assert len(set(map(id, info))) == 1


def test_the_registrys_families_are_collected_again_after_an_interval(exposition, registry):
    polls = prometheus_client.Counter("jobrun_source_polls", "Polls.", registry=registry)
    exposition.publish()
    polls.inc()
    exposition.now += COLLECT_INTERVAL - 0.1
    assert b"\njobrun_source_polls_total 0.0\n" in bytes(exposition.publish().text)
    exposition.now += 0.1
    page = exposition.publish()
    assert b"\njobrun_source_polls_total 1.0\n" in bytes(page.text)
    assert b"\njobrun_source_polls_total 1.0\n# EOF\n" in bytes(page.openmetrics)


def test_the_registrys_series_have_no_created_samples(exposition, registry):
    prometheus_client.Counter("a", "A.", registry=registry).inc()
    prometheus_client.Histogram("b_seconds", "B.", registry=registry).observe(1)
    page = exposition.publish()
    assert b"_created" not in bytes(page.text) + bytes(page.openmetrics)


def test_a_collector_of_the_registry_may_ask_how_many_series_there_are(exposition, registry):
    gauge = prometheus_client.Gauge("rows", "Rows.", registry=registry)
    gauge.set_function(lambda: exposition.series_by_family()["jobrun_runs_total"])
    exposition.update(jobs=[runs(1)])
    assert b"\nrows 1.0\n" in bytes(exposition.publish().text)


def test_readers_never_see_half_a_change(exposition):
    exposition.update(jobs=[runs(0, key) for key in (1, 2)])
    exposition.publish()
    torn, done = [], threading.Event()

    def read():
        while not done.is_set():
            values = {line.split()[-1] for line in lines_of(exposition.page, "jobrun_runs_total")}
            if len(values) != 1:
                torn.append(values)

    reader = threading.Thread(target=read)
    reader.start()
    for amount in range(200):
        exposition.update(jobs=[runs(amount, key) for key in (1, 2)])
        exposition.publish()
    done.set()
    reader.join()
    assert torn == []


def test_a_page_starts_the_wait_of_series_it_first_shows_as_0(exposition, pending_series, clock):
    exposition.update(jobs=[runs(1, released=False)])
    assert len(pending_series) == 0
    page = exposition.publish()
    pending_series.scraped(page.generation)
    clock.now += 120
    assert pending_series.due() == [(("job", 1), "jobrun_runs_total", "success")]


def test_a_later_page_does_not_restart_the_wait(exposition, pending_series, clock):
    exposition.update(jobs=[runs(1, released=False)])
    pending_series.scraped(exposition.publish().generation)
    clock.now += 60
    exposition.update(jobs=[runs(2, released=False)])
    exposition.publish()
    clock.now += 60
    assert len(pending_series.due()) == 1


def test_an_exposed_removed_or_withheld_series_is_no_longer_pending(exposition, pending_series):
    withheld = view(runs(1, released=False).state, withheld=True)
    for change in ({"jobs": [runs(1)]}, {"removed_jobs": [1]}, {"jobs": [withheld]}):
        exposition.update(jobs=[runs(1, released=False)])
        exposition.publish()
        assert len(pending_series) == 1
        exposition.update(**change)
        exposition.publish()
        assert len(pending_series) == 0


def test_a_series_never_on_a_page_was_never_pending(exposition, pending_series):
    exposition.update(jobs=[runs(1, released=False)])
    exposition.update(removed_jobs=[1])
    exposition.publish()
    assert len(pending_series) == 0


def test_a_series_of_the_exporter_is_pending_as_one_of_the_exporter(exposition, pending_series, clock):
    counted = Counted()
    counted.count("jobrun_exporter_state_cold_starts_total", "lost")
    exposition.update(exporter=counted)
    pending_series.scraped(exposition.publish().generation)
    clock.now += 120
    assert pending_series.due() == [(("exporter",), "jobrun_exporter_state_cold_starts_total", "lost")]


def test_jobs_with_exemplars_are_rendered_one_after_another(exposition):
    shown = []
    for key in (1, 2):
        each = runs(3, key)
        each.state.counts["jobrun_runs_total"]["success"].exemplar = Exemplar(f"run-{key}", 1.0, 900.0)
        shown.append(each)
    exposition.update(jobs=shown)
    lines = lines_of(exposition.publish(), "jobrun_runs_total", openmetrics=True)
    assert [line.partition(" # ")[2] for line in lines] == [f'{{run_id="run-{key}"}} 1.0 900.0' for key in (1, 2)]


@pytest.mark.parametrize(("switched", "shown"), [(True, [RUN_DURATION, STEP_DURATION]), (False, [RUN_DURATION])])
def test_only_durations_of_steps_can_be_disabled(exposition, switched, shown):
    state = job()
    for family, label in ((RUN_DURATION, "success"), (STEP_DURATION, "load")):
        distribution(state, family, label, bounds=(1.0,)).observe(0.5)
    exposition.update(jobs=[view(state, step_histograms=switched)])
    page = exposition.publish()
    assert [family for family in (RUN_DURATION, STEP_DURATION) if lines_of(page, family)] == shown
