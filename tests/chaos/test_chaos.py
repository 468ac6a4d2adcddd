"""The short form of `./chaos`, and tests that its auditor finds bugs. The long form: docs/reliability.md."""

import time
from functools import partial

import pytest

from tests.chaos.__main__ import Layer, main, play_layer
from tests.chaos.mutants import MUTANTS
from tests.chaos.process_chaos import run_process_chaos
from tests.chaos.renamed_job import RenamedJob, generate_runs
from tests.chaos.report import Journal, summary
from tests.chaos.scenario import ScenarioOptions, ScenarioOutcome, play_scenario
from tests.contract.harness import DAY

SIZE = 300
"""Runs per vendor."""


@pytest.mark.timeout(600)
def test_simulated_days_with_all_disruptions_cause_no_discrepancy():
    outcome = play_scenario("short", ScenarioOptions(runs=SIZE, days=3.0, pause=0.3))
    assert outcome.findings == []
    assert outcome.discrepancies == 0
    assert outcome.runs > SIZE
    assert outcome.kills >= 3
    assert outcome.gauges > 100
    assert len(outcome.disruptions) >= 8


QUICKLY_FOUND = (
    "no dedup",
    "restored counters reset",
    "baseline too early",
    "customer's text stored",
    "open row believed",
    "phantom open runs",
    "labels alike",
    "released hidden again",
    "watermark stands still",
    "page forgets changes",
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", QUICKLY_FOUND)
def test_the_auditor_finds_a_broken_exporter(name):
    options = ScenarioOptions(
        runs=SIZE, days=3.0, ledger=MUTANTS[name], only=("clean restart", "copy made"), max_discrepancies=1
    )
    assert play_scenario("short", options).discrepancies


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_killing_real_processes_causes_no_discrepancy():
    outcome = run_process_chaos("short", kills=10)
    assert outcome.findings == []
    assert outcome.kills == 10


def test_a_scenario_that_ends_after_the_last_wanted_one_counts_too(tmp_path):
    path = tmp_path / "journal"
    journal = Journal(path)
    play_layer(journal, Layer("simulated", "w", 1, 2), 1, partial(play_after, path))
    assert [(each.seed, each.discrepancies) for each in journal.outcomes] == [("w1", 0), ("w2", 1)]


def play_after(journal, seed):
    while seed != "w1" and not journal.exists():  # the journal has w1, which is enough
        time.sleep(0.01)
    return ScenarioOutcome(seed=seed, runs=1, discrepancies=seed != "w1")


def test_a_journal_is_resumed_and_summarized(tmp_path, capsys):
    journal = Journal(tmp_path / "journal")
    journal.add(ScenarioOutcome(seed="w1", runs=600, kills=3, disruptions={"disk full": 2}))
    journal.add(ScenarioOutcome(seed="w3"))
    journal.add(ScenarioOutcome(seed="x"))
    journal.add(ScenarioOutcome(seed="w2"))
    journal.add(
        ScenarioOutcome(seed="r1", layer="real", runs=40, kills=10, discrepancies=1, findings=["snowplow: 1, not 2"])
    )
    assert main(["--runs=500", "--kills=10", f"--journal={tmp_path / 'journal'}"]) == 1
    output = capsys.readouterr().out
    assert "| completed runs checked | 600 | 40 | 640 |" in output
    assert "Disruptions: 2: disk full 2." in output
    assert "Seeds: r1, w1 to w3, x." in output
    assert "./chaos --pause=0.8 --layer=real --seed=r1" in output


def test_without_a_scenario_the_summary_is_empty():
    assert "No scenario was played." in summary([], "./chaos")


def test_an_older_copy_may_count_unread_runs_under_the_job_s_latest_name():
    runs = generate_runs("seed", 0.0, 30 * DAY)
    job = RenamedJob(runs, 0.0)
    job.rename(10 * DAY, None)
    name = job.rename(20 * DAY, None)
    job.add_page(20 * DAY, {name: 0.0})
    job.add_page(30 * DAY, {name: float(len(runs))})
    assert list(job.findings(30 * DAY, 0.0, exact=False))
    job.allow_older_state()
    assert not list(job.findings(30 * DAY, 0.0, exact=False))
