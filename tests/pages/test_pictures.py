"""Sparklines, timelines and graphs: where things stand."""

import re

import pytest

from exporter.model import Result
from exporter.pages.graph import BOX_WIDTH, MAX_STEPS, graph
from exporter.pages.sparkline import HEIGHT, sparkline
from exporter.pages.timeline import timeline
from exporter.reports.records import StepReport
from tests.pages.fake_reports import NOW, STEPS, endings, step


def bars(path):
    return len(re.findall(rf"M\d+ {HEIGHT}v", path))


def test_a_sparkline_has_a_bar_for_each_run_and_a_mark_above_each_that_failed():
    line = sparkline(endings(Result.SUCCESS, Result.FAILURE, Result.TIMEOUT, Result.SKIP))
    assert (bars(line.good), bars(line.bad), bars(line.calm)) == (1, 2, 1)
    assert line.bad.count(" 0h") == 2
    assert line.label == "4 recent runs, 2 failed"


def test_the_latest_run_is_at_the_right_end_however_few_there_are():
    (x,) = re.findall(r"M(\d+) 22", sparkline(endings(Result.SUCCESS)).good)
    assert int(x) == sparkline(()).width - 4


def test_of_more_runs_than_places_the_latest_are_shown():
    assert bars(sparkline(endings(*[Result.FAILURE] * 30, *[Result.SUCCESS] * 20)).good) == 20


def test_without_runs_there_is_an_empty_picture_that_says_so():
    line = sparkline((), places=0)
    assert (line.good, line.bad, line.calm, line.label, line.width) == ("", "", "", "no runs yet", 1)


def test_steps_stand_where_they_happened():
    drawn = timeline(STEPS, NOW - 3600 - 90, NOW)
    assert drawn.placed == "exact"
    assert drawn.length == 88
    assert [bar and (bar.x, bar.width) for bar in drawn.bars[:2]] == [(0.0, 227.3), (227.3, 227.3)]
    assert drawn.bars[2].usual == pytest.approx(1000 * 60 / 88, abs=0.1)
    assert drawn.bars[4] is None


def test_a_step_under_way_reaches_to_now():
    drawn = timeline([step("a", 0, 10), StepReport(name="b", start=NOW - 3600 - 80)], None, NOW - 3600 - 50)
    assert drawn.bars[1].x + drawn.bars[1].width == pytest.approx(1000)


def test_steps_without_starts_stand_where_their_dependencies_allow():
    steps = [
        StepReport(name="last", duration=10.0, dependencies=("left", "right")),
        StepReport(name="left", duration=30.0, dependencies=("first",)),
        StepReport(name="right", duration=5.0, dependencies=("first",)),
        StepReport(name="first", duration=10.0),
    ]
    drawn = timeline(steps, None, NOW)
    assert drawn.placed == "derived"
    assert [bar.x for bar in drawn.bars] == [800, 200, 200, 0]


def test_steps_of_which_only_lengths_are_known_all_begin_at_0():
    drawn = timeline([StepReport(name="a", duration=10.0), StepReport(name="b", duration=20.0)], None, NOW)
    assert (drawn.placed, [bar.x for bar in drawn.bars], drawn.length) == ("", [0, 0], 20)


def test_a_run_without_steps_has_an_empty_timeline():
    assert timeline([], None, NOW).bars == ()


def test_a_step_that_took_no_time_can_still_be_seen_on_the_axis():
    drawn = timeline([step("a", 0, 100), step("b", 100, 100)], None, NOW)
    assert (drawn.bars[1].x, drawn.bars[1].width) == (996, 4)


def test_a_step_stands_right_of_all_that_it_waits_for():
    drawn = graph(STEPS)
    places = {box.step.name: (box.x, box.y) for box in drawn.boxes}
    columns = sorted({x for x, _ in places.values()})
    assert [columns.index(places[name][0]) for name in ("extract", "clean", "load", "enrich", "publish")] == [
        0,
        1,
        2,
        1,
        3,
    ]
    assert len(drawn.lines) == 5
    assert len(set(places.values())) == 5
    assert drawn.width >= max(x for x, _ in places.values()) + BOX_WIDTH


def test_without_dependencies_there_is_no_graph():
    assert graph([step("a", 0, 1), step("b", 1, 2)]) is None
    assert graph([step("a", 0, 1, after=["somewhere else"])]) is None
    assert graph([]) is None


def test_circles_and_steps_that_wait_for_themselves_end():
    drawn = graph([step("a", 0, 1, after=["c", "a"]), step("b", 1, 2, after=["a"]), step("c", 2, 3, after=["b"])])
    assert len(drawn.boxes) == 3


def test_a_long_chain_is_no_trouble_and_too_many_steps_are_no_picture():
    chain = [step("0", 0, 1), *(step(str(number), 0, 1, after=[str(number - 1)]) for number in range(1, MAX_STEPS))]
    assert len({box.x for box in graph(chain[::-1]).boxes}) == MAX_STEPS
    assert graph([*chain, step("more", 0, 1, after=["0"])]) is None
