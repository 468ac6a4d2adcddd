"""`explain` lists the runs that make up a number."""

import io
import shutil
import sqlite3

import msgspec
import pytest

from exporter.commands.explain.explain import explain
from exporter.ledger.housekeeping import prune
from exporter.model import Job, Result, Step, Window
from tests.contract.harness import NOW
from tests.queries.reports_harness import HOSTILE, ended, running


def explained(harness, selector):
    """Return exit code, output and errors of `explain`."""
    state = harness.config.state.model_copy(update={"path": str(harness.bench.state)})
    out, err = io.StringIO(), io.StringIO()
    code = explain(harness.config.model_copy(update={"state": state}), selector, out, err)
    return code, out.getvalue(), err.getvalue()


def runs(output):
    """Return the IDs of the listed runs."""
    return [line.split()[0] for line in output.splitlines() if line.startswith("  ") and not line.startswith("  RUN")]


STEPS = (
    Step(name="load", result=Result.SUCCESS, duration=1.5),
    Step(name="model", result=Result.FAILURE, duration=4.0),
)


@pytest.fixture
def with_runs(harness):
    harness.commit(ended("old", NOW - 50, "failure"), ended("older", NOW - 60))
    harness.commit(
        ended("a", NOW + 10, length=2.0, queue_duration=1.0, retries=2, recovered=True),
        ended("b", NOW + 20, "failure", length=30.0, error_type="server"),
        ended("c", NOW + 30, "failure", length=70.0, error_type="server"),
        ended("k1", NOW + 15, job="k"),
        running("open", NOW + 5),
        running("wait", NOW + 5, state="pending"),
        steps={"b": STEPS, "a": STEPS[:1]},
    )
    return harness


@pytest.mark.parametrize(
    ("selector", "listed", "value"),
    [
        ('jobrun_runs_total{job_name="j",result="failure"}', ["c", "b"], "2"),
        ('jobrun_runs_total{job_name=~"j|k",result="success"}', ["a", "k1"], "1"),
        ('jobrun_run_duration_seconds_count{result="failure"}', ["c", "b"], "2"),
        ('jobrun_run_duration_seconds_sum{result="failure"}', ["c", "b"], "100"),
        ('jobrun_run_duration_seconds_bucket{result="failure",le="30.0"}', ["b"], "1"),
        ('jobrun_run_duration_seconds_bucket{result="failure",le="+Inf"}', ["c", "b"], "2"),
        ('jobrun_run_queue_duration_seconds_sum{job_name="j"}', ["a"], "1"),
        ('jobrun_run_errors_total{error_type="server"}', ["c", "b"], "2"),
        ('jobrun_steps_total{step_name="load",result="success"}', ["b", "a"], "2"),
        ('jobrun_step_root_failures_total{step_name="model"}', ["b"], "1"),
        ('jobrun_step_duration_seconds_sum{step_name="load"}', ["b", "a"], "3"),
        ('jobrun_consecutive_failures{job_name="j"}', ["c", "b"], "2"),
        ('jobrun_failing_since_timestamp_seconds{job_name="j"}', ["b"], "1700000020 (2023-11-14T22:13:40Z)"),
        ('jobrun_last_run_status{job_name="j",status="failure"}', ["c"], "1"),
        ('jobrun_last_run_duration_seconds{job_name="j"}', ["c"], "70"),
        ('jobrun_last_success_timestamp_seconds{job_name="j"}', ["a"], "1700000010 (2023-11-14T22:13:30Z)"),
        ('jobrun_last_failed_run_info{job_name="j"}', ["c"], "1"),
        ('jobrun_last_run_steps{job_name="j",result="failure"}', ["b"], "1"),
        ('jobrun_active_runs{job_name="j",state="executing"}', ["open"], "1"),
        ('jobrun_active_runs{job_name="j",state="pending"}', ["wait"], "1"),
        (
            'jobrun_oldest_active_run_start_timestamp_seconds{state="executing"}',
            ["open"],
            "1700000005 (2023-11-14T22:13:25Z)",
        ),
    ],
)
def test_a_number_is_explained_by_its_runs(with_runs, selector, listed, value):
    code, out, err = explained(with_runs, selector)
    assert (code, err) == (0, "")
    assert runs(out) == listed
    assert out.splitlines()[0].endswith("} " + value)
    assert "not the same" not in out


def test_every_counter_and_histogram_of_a_job_adds_up(with_runs):
    bench = with_runs.bench
    bench.poll()
    bench.busy(1200, steps=["load", "model"])
    bench.run(1500)
    for name in (
        *("jobrun_runs_total", "jobrun_run_duration_seconds_count", "jobrun_run_duration_seconds_sum"),
        *("jobrun_run_duration_seconds_bucket", "jobrun_steps_total", "jobrun_step_duration_seconds_sum"),
        *("jobrun_step_root_failures_total", "jobrun_consecutive_failures", "jobrun_active_runs"),
    ):
        code, out, _ = explained(with_runs, f'{name}{{job_name=~"job-.*"}}')
        assert code == 0
        assert out.count(": the same.") > 0
        assert "not the same" not in out


def test_retries_and_recoveries_are_explained(make):
    harness = make("strait")
    harness.commit(ended("a", retries=2, recovered=True), ended("b", NOW + 20))
    _, out, _ = explained(harness, "jobrun_run_retries_total")
    assert runs(out) == ["a"]
    assert out.startswith('jobrun_run_retries_total{source="one",project="",job_name="j"} 2\n')
    assert runs(explained(harness, "jobrun_runs_recovered_total")[1]) == ["a"]


def test_baseline_runs_are_reported_as_not_counted(with_runs):
    _, out, _ = explained(with_runs, 'jobrun_runs_total{job_name="j",result="failure"}')
    assert "2 runs listed, 2 together; the state says 2: the same.\n" in out
    assert "1 more runs completed before the baseline: they are in no counter.\n" in out


def test_pruned_runs_are_reported_as_pruned(with_runs):
    with_runs.bench.clock.advance(100_000)
    with_runs.commit(ended("new", NOW + 90_000, "failure"), through=NOW + 100_000)
    prune(with_runs.bench.ledger, NOW + 100_000, 50_000)
    _, out, _ = explained(with_runs, 'jobrun_runs_total{job_name="j",result="failure"}')
    assert runs(out) == ["new"]
    assert "1 run listed, 1 together; the state says 3: not the same." in out
    assert (
        "2 come from runs that ended before 2023-11-15T12:06:40Z and are no longer in the state (state.retention)"
        in out
    )


def test_a_run_changed_after_it_was_counted_is_reported_as_possible(with_runs):
    with_runs.commit(ended("b", NOW + 20, "success"))
    _, out, _ = explained(with_runs, 'jobrun_runs_total{job_name="j"}')
    assert "1 come from runs that changed after they were counted: a counter never falls." in out
    assert "1 more are listed than counted" in out


def test_completions_of_a_reopened_run_are_reported_as_counted(make):
    harness = make("strait")
    harness.commit(ended("r", NOW + 10, "failure"))
    harness.commit(running("r", NOW + 20))
    harness.commit(ended("r", NOW + 30, "failure"))
    _, out, _ = explained(harness, 'jobrun_runs_total{result="failure"}')
    assert "1 run listed, 1 together; the state says 2: not the same." in out
    assert "1 earlier completions of reopened runs are counted too" in out


def test_a_completion_before_the_baseline_of_a_reopened_run_is_not_reported_as_counted(make):
    harness = make("strait")
    harness.commit(ended("r", NOW - 10, "failure"))
    harness.commit(running("r", NOW + 20))
    harness.commit(ended("r", NOW + 30, "failure"))
    _, out, _ = explained(harness, 'jobrun_runs_total{result="failure"}')
    assert "the state says 1" in out
    assert "earlier completions" not in out
    assert harness.reporter.run("one", "r", live=False).run.endings == 1


def test_folded_jobs_are_explained_under_their_overflow_series(make):
    harness = make(metrics={"max_series": 30})
    harness.commit(*(ended(f"r{n}", NOW + n + 1, "failure", job=f"job-{n}") for n in range(4)))
    folded = next(job.name for job in harness.bench.ledger.jobs_of("one") if job.folded)
    code, _, err = explained(harness, f'jobrun_runs_total{{job_name="{folded}"}}')
    assert code == 1
    assert f'{folded}; ask for job_name="__other__"' in err
    _, out, _ = explained(harness, 'jobrun_runs_total{job_name="__other__",result="failure"}')
    assert len(runs(out)) >= 1
    assert "the same." in out
    assert "not the same" not in out
    assert "The list has the runs of currently folded jobs" in out


def test_a_pending_series_is_reported_as_served_as_0(make):
    harness = make(metrics={"zero_first": "2m"})
    harness.commit(ended("a"))
    assert (
        "It is still served as 0 (metrics.zero_first)." in explained(harness, 'jobrun_runs_total{result="success"}')[1]
    )


def test_unobserved_seconds_are_explained_by_their_ranges(harness):
    harness.commit(ended("a"))
    harness.commit(unobserved=[Window(NOW - 7200, NOW - 3600), Window(NOW - 600, NOW - 300)])
    code, out, _ = explained(harness, 'jobrun_source_unobserved_seconds_total{source="one"}')
    assert code == 0
    assert "2023-11-14T20:13:20Z  2023-11-14T21:13:20Z  3600" in out
    assert "2 ranges listed, 3900 together; the state says 3900: the same." in out


@pytest.mark.parametrize(
    ("selector", "says"),
    [
        ("jobrun_runs", "there is no metric jobrun_runs; did you mean jobrun_runs_total"),
        ("jobrun_run_duration_seconds", "is a histogram; ask for its _count, _sum or _bucket"),
        ("jobrun_job_info", "is not computed from runs: Details of the job"),
        ("jobrun_source_up", "is not computed from runs: Whether the last poll"),
        ("jobrun_source_unmapped_status_total", "is not computed from runs: Runs seen with a status"),
        ("jobrun_source_api_request_duration_seconds_count", "only the running process knows it"),
        ("process_cpu_seconds_total", "only the running process knows it"),
        ('jobrun_runs_total{shade="red"}', "has no label shade; it has job_name, project, result, source"),
        ("jobrun_runs_total{", "at its end"),
    ],
)
def test_a_series_that_cannot_be_explained_is_wrong_usage_with_a_sentence(harness, selector, says):
    code, out, err = explained(harness, selector)
    assert (code, out) == (2, "")
    assert says in err


def test_a_selector_without_a_match_is_reported(with_runs):
    assert explained(with_runs, 'jobrun_runs_total{job_name="nope"}') == (
        1,
        "",
        "the state has no series that match this selector\n",
    )


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_names_stay_in_their_line(harness, evil):
    harness.commit(ended(evil, job=evil, error_type=evil), jobs=[Job(job_id=evil, name=evil, project=evil)])
    code, out, _ = explained(harness, 'jobrun_runs_total{result="success"}')
    assert code == 0
    assert len(out.splitlines()) == 4
    assert all(char.isprintable() or char == "\n" for char in out)


def test_explain_reads_during_a_transaction_and_changes_nothing(with_runs):
    store = with_runs.bench.ledger.store()
    before = msgspec.json.encode(with_runs.bench.ledger.source("one"))
    with with_runs.bench.ledger.lock, store.transaction():
        store._db.execute("DELETE FROM runs")
        code, out, _ = explained(with_runs, 'jobrun_runs_total{job_name="j",result="failure"}')
        assert (code, runs(out)) == (0, ["c", "b"])
    assert msgspec.json.encode(with_runs.bench.ledger.source("one")) == before


def test_without_a_readable_journal_explain_says_what_may_be_missing(with_runs, tmp_path):
    """On a read-only file system the journal's index cannot be created."""
    with_runs.bench.ledger.close()
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(with_runs.bench.state, copy / "state.db")
    with_runs.bench.state = copy / "state.db"
    database = sqlite3.connect(copy / "state.db")
    assert database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    database.close()
    code, out, _ = explained(with_runs, 'jobrun_runs_total{job_name="j",result="failure"}')
    assert (code, runs(out)) == (0, ["c", "b"])
