"""More runs are created at one time than a page can show: each run is counted once, each time is exported once."""

import json
from typing import Any

import pytest

from exporter.simulators.disruptions import Contradict, Status
from exporter.simulators.strait import StraitOptions
from exporter.simulators.world import MARK
from exporter.sources.strait.api import exact_time, parse_export

MINUTE, HOUR = 60.0, 3600.0


def burst(world, at, number, **fields):
    """Add the runs of one bulk trigger."""
    return [world.run("bulk", created=at, **{"duration": 5.0, **fields}).run_id for _ in range(number)]


def truncated(exporter):
    return exporter.of_source("jobrun_source_truncated_responses_total")


@pytest.mark.parametrize("number", [101, 250, 730])
def test_every_run_of_a_burst_counts_once_after_one_export(world, clock, exporter, simulator, number):
    exporter.poll()
    burst(world, clock() + 1, number)
    world.run("bulk", created=clock() + 0.5, duration=5.0, result="error")
    world.run("bulk", created=clock() + 2, duration=5.0, result="error")
    for _ in range(6):
        assert exporter.poll(60) == "success", exporter.disruption
    assert exporter.completed("bulk") == {"success": number, "error": 2}
    assert (truncated(exporter), exporter.open()) == (0, {})
    assert len(simulator.log.lines("export")) == 1


def test_polls_after_a_burst_need_no_more_requests_than_before(world, clock, exporter, simulator):
    exporter.poll()
    burst(world, clock() + 1, 250)
    exporter.poll(60)
    exporter.poll(60)
    simulator.log.clear()
    exporter.poll(60)
    assert len(simulator.log.lines("runs")) == 8 + 3, "the pages of the last hour, and nothing for the burst"
    assert simulator.log.lines("run") == simulator.log.lines("export") == []


def test_runs_of_a_burst_that_are_still_open_are_followed_to_their_ends(world, clock, exporter, simulator):
    exporter.poll()
    burst(world, clock() + 1, 150, duration=20 * MINUTE)
    burst(world, clock() + 1, 150, result="failure")
    exporter.poll(60)
    assert exporter.completed("bulk") == {"failure": 150}
    assert len(exporter.open()) == 150
    for _ in range(25):
        exporter.poll(60)
    assert exporter.completed("bulk") == {"failure": 150, "success": 150}
    assert len(simulator.log.lines("export")) == 1


def test_a_burst_is_read_completely_despite_repeated_kills(world, clock, exporter, simulator):
    exporter.poll()
    ids = burst(world, clock() + 1, 300)
    simulator.disruptions.set([Status(code=400, endpoint="run", probability=0.7)])
    for _ in range(5):
        exporter.poll(60)
        exporter.restart()
    assert 100 < exporter.completed("bulk")["success"] < 300
    simulator.disruptions.clear()
    for _ in range(3):
        exporter.poll(60)
    assert exporter.completed("bulk") == {"success": len(ids)}
    assert len(simulator.log.lines("export")) == 1


def test_an_unread_run_of_a_burst_is_neither_pending_nor_executing(world, clock, exporter, simulator):
    exporter.poll()
    burst(world, clock() + 1, 250)
    simulator.disruptions.set([Status(code=400, endpoint="run")])
    exporter.poll(60)
    assert set(exporter.open().values()) == {"None"}
    assert exporter.completed("bulk") == {"success": 100}


def test_the_watermark_waits_for_a_burst_for_a_limited_time(world, clock, exporter, simulator):
    exporter.poll()
    created = clock() + 1
    burst(world, created, 250)
    simulator.disruptions.set([Status(code=400, endpoint="run")])
    for _ in range(10):
        exporter.poll(60)
    assert exporter.ledger.source("strait").scopes[""].watermark <= created
    for _ in range(8):
        exporter.poll(60)
    assert exporter.ledger.source("strait").scopes[""].watermark > clock() - 5 * MINUTE


def test_a_burst_of_dead_letters_that_are_replayed_counts_twice(world, clock, exporter):
    exporter.poll()
    ids = burst(world, clock() + 1, 250, result="failure", attempts=2)
    for _ in range(2):
        exporter.poll(60)
    assert exporter.completed("bulk") == {"failure": 250}
    for run_id in ids[:120]:
        world.run("bulk", run_id=run_id, created=clock() + 30, duration=90.0)
    for _ in range(5):
        exporter.poll(60)
    assert exporter.completed("bulk") == {"failure": 250, "success": 120}
    assert exporter.open() == {}


def test_runs_completed_before_the_first_poll_do_not_count_even_in_a_burst(world, clock, exporter):
    burst(world, clock() - HOUR, 250)
    world.run("bulk", run_id="open", created=clock() - HOUR + 1, duration=2 * HOUR)
    exporter.poll()
    exporter.poll(60)
    assert exporter.completed("bulk") == {}
    assert exporter.open() == {"open": "executing"}


CREATED: Any = exact_time("2026-11-28T10:00:00.123456Z")


@pytest.mark.parametrize("error", ["", "a\u2028b\x0cc\x85d", "x" * 200_000, '"a\n\nb"', "\0", "'=1+1"])
@pytest.mark.parametrize("created", ["2026-11-28T10:00:00.123456Z", "2026-11-28 12:00:00.123+02"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_an_export_is_read_no_matter_what_its_error_texts_contain(error, created, newline):
    rows = [
        "\ufeffid,job_id,created_at,error",
        f"1,j,{created},{error}",
        f"2,j,{created},",
        "3,j,2026-11-28T10:00:01Z,",
    ]
    assert parse_export("".join(row + newline for row in rows).encode(), CREATED) == ({"1": "j", "2": "j"}, True)


@pytest.mark.parametrize("answer", [403, 404, 400, "cut", "empty"])
def test_a_burst_with_hidden_runs_is_counted_once_and_logged(world, exporter, simulator, capsys, answer):
    simulator.options = StraitOptions(export=answer)
    exporter.poll()
    burst(world, exporter.now + 1, 250)
    for _ in range(5):
        assert exporter.poll(60) == "success", exporter.disruption
    assert truncated(exporter) == 1
    assert 100 <= exporter.completed("bulk")["success"] < 250
    assert "could not all be listed" in capsys.readouterr().out
    assert len(simulator.log.lines("export")) == 1
    exporter.restart()
    exporter.poll(60)
    assert truncated(exporter) == 1


def test_an_export_that_fails_for_a_while_loses_nothing(world, clock, exporter, simulator):
    exporter.poll()
    burst(world, clock() + 1, 250)
    simulator.disruptions.set([Status(code=500, endpoint="export")])
    exporter.poll(60)
    assert "runs created at" in exporter.disruption
    simulator.disruptions.clear()
    for _ in range(2):
        exporter.poll(60)
    assert exporter.completed("bulk") == {"success": 250}
    assert truncated(exporter) == 0


@pytest.mark.parametrize("code", [429, 500])
def test_an_export_that_always_fails_hides_only_what_no_list_shows(world, clock, exporter, simulator, code):
    exporter.poll()
    created = clock() + 1
    for result in ("success", "failure"):
        burst(world, created, 120, result=result)
    simulator.disruptions.set([Status(code=code, endpoint="export")])
    assert exporter.poll(60) == "partial"
    assert exporter.completed("bulk") == {"success": 100, "failure": 100}
    exporter.poll(16 * MINUTE)
    assert truncated(exporter) == 1

    simulator.log.clear()
    assert exporter.poll(60) == "success"
    assert not simulator.log.lines("export"), "from now on only sweeps request it"
    simulator.disruptions.clear()
    exporter.poll(HOUR)
    exporter.poll(60)
    assert exporter.completed("bulk") == {"success": 120, "failure": 120}


def test_bursts_that_polls_no_longer_read_are_forgotten(world, clock, exporter):
    exporter.poll()
    burst(world, clock() + 1, 150)
    exporter.poll(60)
    assert exporter.ledger.source("strait").checkpoints
    for _ in range(9):
        exporter.poll(24 * HOUR)
    assert not exporter.ledger.source("strait").checkpoints


def test_two_bursts_are_two_exports(world, clock, exporter, simulator):
    exporter.poll()
    burst(world, clock() + 1, 150)
    burst(world, clock() + 3.000_001, 150, result="failure")
    for _ in range(3):
        exporter.poll(60)
    assert exporter.completed("bulk") == {"success": 150, "failure": 150}
    assert len(simulator.log.lines("export")) == 2


def test_a_burst_of_workflow_runs_is_split_by_status(world, clock, exporter):
    exporter.poll()
    burst(world, clock() + 1, 90, steps=["a"])
    burst(world, clock() + 1, 90, steps=["a"], result="failure")
    for _ in range(3):
        exporter.poll(60)
    assert exporter.completed("bulk") == {"success": 90, "failure": 90}
    assert truncated(exporter) == 0


def test_nothing_of_the_export_but_ids_is_kept(world, clock, exporter):
    exporter.poll()
    burst(world, clock() + 1, 250)
    exporter.poll(60)
    state = exporter.ledger.source("strait")
    assert MARK not in json.dumps(dict(state.checkpoints)) + repr(exporter.ledger.jobs_of("strait"))


@pytest.mark.parametrize("copy_first", [False, True])
def test_a_stale_row_of_a_completed_run_reopens_nothing(world, exporter, simulator, copy_first):
    exporter.poll()
    run = world.run("daily", duration=5.0)
    exporter.poll(60)
    simulator.disruptions.set([Contradict(endpoint="runs", run_ids=(run.run_id,), copy="open", copy_first=copy_first)])
    for _ in range(5):
        exporter.poll(60)
        assert (exporter.completed("daily"), exporter.open()) == ({"success": 1}, {})
