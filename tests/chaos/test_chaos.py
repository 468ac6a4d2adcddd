"""The short form of `./chaos`, and proof that its auditor finds what is wrong. The long form: docs/reliability.md."""

import pytest

from tests.chaos.__main__ import main
from tests.chaos.mutants import MUTANTS
from tests.chaos.process_chaos import run_process_chaos
from tests.chaos.report import Journal, summary
from tests.chaos.scenario import Decision, Options, played

SIZE = 300
"""Runs of each vendor."""


@pytest.mark.timeout(600)
def test_days_in_which_everything_goes_wrong_leave_no_discrepancy():
    verdict = played("short", Options(runs=SIZE, days=3.0, pause=0.3))
    assert verdict.told == []
    assert verdict.discrepancies == 0
    assert verdict.runs > SIZE
    assert verdict.kills >= 3
    assert verdict.gauges > 100
    assert len(verdict.troubles) >= 8


BROKEN = (
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
@pytest.mark.parametrize("name", BROKEN)
def test_the_auditor_finds_a_broken_exporter(name):
    options = Options(runs=SIZE, days=3.0, ledger=MUTANTS[name], only=("clean restart", "copy made"), enough=1)
    assert played("short", options).discrepancies


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_real_processes_that_are_killed_while_everything_goes_wrong_leave_no_discrepancy():
    verdict = run_process_chaos("short", kills=10)
    assert verdict.told == []
    assert verdict.kills == 10


def test_a_journal_is_taken_up_again_and_told_whole(tmp_path, capsys):
    journal = Journal(tmp_path / "journal")
    journal.add(Decision(seed="w1", runs=600, kills=3, troubles={"disk full": 2}))
    journal.add(Decision(seed="w3"))
    journal.add(Decision(seed="x"))
    journal.add(Decision(seed="w2"))
    journal.add(Decision(seed="r1", layer="real", runs=40, kills=10, discrepancies=1, told=["snowplow: 1, not 2"]))
    assert main(["--runs=500", "--kills=10", f"--journal={tmp_path / 'journal'}"]) == 1
    told = capsys.readouterr().out
    assert "| endings checked | 600 | 40 | 640 |" in told
    assert "Faults injected: 2: disk full 2." in told
    assert "Seeds: r1, w1 to w3, x." in told
    assert "./chaos --pause=0.8 --layer=real --seed=r1" in told


def test_without_a_scenario_there_is_nothing_to_tell():
    assert "No scenario was played." in summary([], "./chaos")
