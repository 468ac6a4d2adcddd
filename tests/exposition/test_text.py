"""The exact text that is exposed for a job."""

from exporter.counting.records import Counted, LastFailure, LastRun, LastSteps, SourceState
from exporter.counting.series import SEPARATOR, Exemplar
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Level
from exporter.metrics.room import series_needed
from exporter.model import Job, Result, State
from tests.exposition.view_builders import count, distribution, job, lines_of, view

J = 'source="s",project="p",job_name="nightly"'


ABOUT_PAGES = ("#", "jobrun_exporter_series{", "jobrun_exporter_state_commit_errors_total ")


def samples(page, *, openmetrics=False):
    """Return the samples of a page without those that every page has."""
    text = bytes(page.openmetrics if openmetrics else page.text).decode()
    return [line for line in text.splitlines() if not line.startswith(ABOUT_PAGES)]


def shown(exposition, *views):
    exposition.update(jobs=views)
    return exposition.publish()


def full_view():
    state = job(
        job=Job(job_id="id-1", name="nightly", enabled=True),
        last_run=LastRun(run_id="r2", result=Result.FAILURE, order=900.0, start=840.5, end=900.0, duration=59.5),
        last_failure=LastFailure(run_id="r2", order=900.0, end=900.0, error_type="OOM", failed_step="load"),
        last_steps=LastSteps(run_id="r2", order=900.0, results={"success": 2, "failure": 1}),
        last_success=700.0,
        streak=1,
        failing_since=900.0,
    )
    for result, amount in (("success", 3), ("failure", 1)):
        count(state, "jobrun_runs_total", result, amount=amount)
    durations = distribution(state, "jobrun_run_duration_seconds", "failure", bounds=(10, 60))
    durations.observe(59.5, Exemplar("r2", 59.5, 900.0))
    count(state, "jobrun_steps_total", "load", "failure")
    return view(
        state,
        active={State.EXECUTING: (2, 950.0)},
        has_steps=True,
        freshness=93600,
        duration_budget=2700.0,
        next_expected=1e9,
        schedule="0 3 * * *",
        learned=("freshness",),
        unparsed=True,
        team="data",
        labels=(("tier", "gold"),),
        job_url="https://x/job",
        failed_run_url="https://x/2",
    )


def test_a_job_is_exposed_in_full(exposition):
    assert samples(shown(exposition, full_view())) == [
        f'jobrun_runs_total{{{J},result="success"}} 3.0',
        f'jobrun_runs_total{{{J},result="failure"}} 1.0',
        f'jobrun_run_duration_seconds_bucket{{{J},result="failure",le="10.0"}} 0.0',
        f'jobrun_run_duration_seconds_bucket{{{J},result="failure",le="60.0"}} 1.0',
        f'jobrun_run_duration_seconds_bucket{{{J},result="failure",le="+Inf"}} 1.0',
        f'jobrun_run_duration_seconds_sum{{{J},result="failure"}} 59.5',
        f'jobrun_run_duration_seconds_count{{{J},result="failure"}} 1.0',
        f'jobrun_active_runs{{{J},state="pending"}} 0.0',
        f'jobrun_active_runs{{{J},state="executing"}} 2.0',
        f'jobrun_oldest_active_run_start_timestamp_seconds{{{J},state="executing"}} 950.0',
        f'jobrun_last_run_status{{{J},status="success"}} 0.0',
        f'jobrun_last_run_status{{{J},status="failure"}} 1.0',
        f"jobrun_last_run_start_timestamp_seconds{{{J}}} 840.5",
        f"jobrun_last_run_end_timestamp_seconds{{{J}}} 900.0",
        f"jobrun_last_run_duration_seconds{{{J}}} 59.5",
        f"jobrun_last_success_timestamp_seconds{{{J}}} 700.0",
        f"jobrun_last_failure_timestamp_seconds{{{J}}} 900.0",
        f"jobrun_consecutive_failures{{{J}}} 1.0",
        f"jobrun_failing_since_timestamp_seconds{{{J}}} 900.0",
        f'jobrun_last_failed_run_info{{{J},run_id="r2",run_url="https://x/2",failed_step="load",error_type="OOM"}} 1.0',
        f'jobrun_steps_total{{{J},step_name="load",result="failure"}} 1.0',
        f'jobrun_last_run_steps{{{J},result="success"}} 2.0',
        f'jobrun_last_run_steps{{{J},result="failure"}} 1.0',
        (
            f'jobrun_job_info{{{J},job_id="id-1",schedule="0 3 * * *",team="data",page="critical",stop_cause="",'
            'url="https://x/job",tier="gold"} 1.0'
        ),
        f"jobrun_job_enabled{{{J}}} 1.0",
        f"jobrun_job_discovered_timestamp_seconds{{{J}}} 500.0",
        f"jobrun_job_next_run_expected_timestamp_seconds{{{J}}} 1000000000.0",
        f"jobrun_job_freshness_objective_seconds{{{J}}} 93600.0",
        f"jobrun_job_duration_budget_seconds{{{J}}} 2700.0",
        f'jobrun_job_expectation_learned{{{J},expectation="freshness"}} 1.0',
        f"jobrun_job_schedule_unparsed{{{J}}} 1.0",
        f"jobrun_job_failures_to_page{{{J}}} 3.0",
    ]


def test_unknown_values_of_a_new_job_are_absent(exposition):
    assert samples(shown(exposition, view(job(), has_steps=True))) == [
        f'jobrun_active_runs{{{J},state="pending"}} 0.0',
        f'jobrun_active_runs{{{J},state="executing"}} 0.0',
        f'jobrun_last_run_status{{{J},status="success"}} 0.0',
        f'jobrun_last_run_status{{{J},status="failure"}} 0.0',
        f"jobrun_consecutive_failures{{{J}}} 0.0",
        f'jobrun_last_run_steps{{{J},result="success"}} 0.0',
        f'jobrun_last_run_steps{{{J},result="failure"}} 0.0',
        f'jobrun_job_info{{{J},job_id="id-1",schedule="",team="",page="critical",stop_cause="",url=""}} 1.0',
        f"jobrun_job_discovered_timestamp_seconds{{{J}}} 500.0",
        f"jobrun_job_failures_to_page{{{J}}} 3.0",
    ]


def test_a_job_without_steps_has_no_gauge_of_steps(exposition):
    assert lines_of(shown(exposition, view(job())), "jobrun_last_run_steps") == []


def test_a_last_result_is_shown_even_if_it_was_not_seeded(exposition):
    state = job(last_run=LastRun(run_id="r", result=Result.TIMEOUT, order=1.0))
    assert lines_of(shown(exposition, view(state)), "jobrun_last_run_status") == [
        f'jobrun_last_run_status{{{J},status="success"}} 0.0',
        f'jobrun_last_run_status{{{J},status="failure"}} 0.0',
        f'jobrun_last_run_status{{{J},status="timeout"}} 1.0',
    ]


def test_the_overflow_job_has_counters_and_histograms_only(exposition):
    state = job(overflow=True, project="__other__", name="__other__")
    count(state, "jobrun_runs_total", "success")
    labels = 'source="s",project="__other__",job_name="__other__"'
    assert samples(shown(exposition, view(state))) == [f'jobrun_runs_total{{{labels},result="success"}} 1.0']


def test_a_deleted_or_folded_job_has_no_series(exposition):
    for fields in ({"gone": True}, {"folded": True}):
        state = job(**fields)
        count(state, "jobrun_runs_total", "success")
        assert samples(shown(exposition, view(state))) == []
        assert series_needed(view(state), (1.0,), (1.0,), frozenset()) == 0


def test_gauges_are_shown_while_counters_are_withheld(exposition):
    state = job()
    count(state, "jobrun_runs_total", "success")
    page = shown(exposition, view(state, withheld=True))
    assert lines_of(page, "jobrun_runs_total") == []
    assert lines_of(page, "jobrun_job_info") != []


def test_a_pending_series_is_shown_as_0_without_exemplars(exposition):
    state = job()
    exemplar = Exemplar("r", 5.0, 900.0)
    state.count("jobrun_runs_total", "error").exemplar = exemplar
    state.distribution("jobrun_run_duration_seconds", "error", bounds=(10,)).observe(5.0, exemplar)
    labels = f'{J},result="error"'
    assert [line for line in samples(shown(exposition, view(state)), openmetrics=True) if "run" in line][:5] == [
        f"jobrun_runs_total{{{labels}}} 0.0",
        f'jobrun_run_duration_seconds_bucket{{{labels},le="10.0"}} 0.0',
        f'jobrun_run_duration_seconds_bucket{{{labels},le="+Inf"}} 0.0',
        f"jobrun_run_duration_seconds_sum{{{labels}}} 0.0",
        f"jobrun_run_duration_seconds_count{{{labels}}} 0.0",
    ]


def test_exemplars_are_in_openmetrics_only(exposition):
    state = job()
    exemplar = Exemplar('r"1', 5.0, 900.25)
    count(state, "jobrun_runs_total", "error").exemplar = exemplar
    distribution(state, "jobrun_run_duration_seconds", "error", bounds=(10,)).observe(5.0, exemplar)
    page = shown(exposition, view(state))
    tail = ' # {run_id="r\\"1"} 5.0 900.25'
    assert lines_of(page, "jobrun_runs", openmetrics=True) == [f'jobrun_runs_total{{{J},result="error"}} 1.0{tail}']
    assert [line.endswith(tail) for line in lines_of(page, "jobrun_run_duration_seconds", openmetrics=True)] == [
        *(True, False, False, False),
    ]
    assert b" # {" not in bytes(page.text)


def test_an_exemplar_longer_than_128_characters_is_omitted(exposition):
    for length, expected in ((122, True), (123, False)):
        state = job()
        count(state, "jobrun_runs_total", "error").exemplar = Exemplar("ü" * length, 1.0, 900.0)
        page = shown(exposition, view(state))
        assert (b" # {" in bytes(page.openmetrics)) is expected


def test_a_family_is_declared_with_the_name_that_each_format_requires(exposition):
    page = exposition.publish()
    assert b"# TYPE jobrun_runs_total counter\n" in bytes(page.text)
    assert b"# TYPE jobrun_runs counter\n" in bytes(page.openmetrics)
    assert b"# TYPE jobrun_runs_total" not in bytes(page.openmetrics)
    assert bytes(page.openmetrics).endswith(b"# EOF\n")
    assert b"# EOF" not in bytes(page.text)


def test_counters_of_sources_and_of_the_exporter_are_exposed(exposition):
    source = SourceState(name="s", identity="api")
    count(source, "jobrun_source_unobserved_seconds_total", amount=12.5)
    count(source, "jobrun_source_unmapped_status_total", "PAUSED")
    exporter = Counted()
    count(exporter, "jobrun_exporter_state_cold_starts_total", "new")
    exposition.update(sources=[source], exporter=exporter)
    assert samples(exposition.publish()) == [
        'jobrun_source_unobserved_seconds_total{source="s"} 12.5',
        'jobrun_source_unmapped_status_total{source="s",status="PAUSED"} 1.0',
        'jobrun_exporter_state_cold_starts_total{reason="new"} 1.0',
    ]


def test_removed_sources_and_jobs_are_no_longer_shown(exposition):
    source = SourceState(name="s", identity="api")
    count(source, "jobrun_source_steps_lost_total")
    exposition.update(jobs=[full_view()], sources=[source])
    exposition.publish()
    exposition.update(removed_jobs=[1], removed_sources=["s"])
    assert samples(exposition.publish()) == []
    assert set(exposition.series_by_family().values()) == {0}


def test_every_line_of_a_family_counts_as_a_series(exposition):
    page = shown(exposition, full_view())
    counted = exposition.series_by_family()
    assert counted == {name: len(lines_of(page, name)) for name in counted}
    assert {family.name for family in FAMILIES if family.level is Level.JOB} <= counted.keys()
    assert sum(counted.values()) == 32


def test_all_lines_of_a_family_are_adjacent(exposition):
    page = shown(exposition, full_view(), view(job(key=2, name="other")))
    names = [line.split("{")[0] for line in samples(page) if "_bucket" not in line]
    assert names == sorted(names, key=names.index)


def test_labels_beyond_the_first_are_split_at_the_separator(exposition):
    state = job()
    state.counts["jobrun_steps_total"] = {}
    count(state, "jobrun_steps_total", "a,b", "success")
    assert f"a,b{SEPARATOR}success" in state.counts["jobrun_steps_total"]
    assert lines_of(shown(exposition, view(state)), "jobrun_steps_total") == [
        f'jobrun_steps_total{{{J},step_name="a,b",result="success"}} 1.0'
    ]


def test_a_value_that_is_not_a_number_has_no_line(exposition):
    page = shown(exposition, view(job(), freshness=float("nan")))
    assert lines_of(page, "jobrun_job_freshness_objective_seconds") == []
