"""Sparklines, timelines and graphs: the places of their parts."""

import re
from typing import Any

import pytest

from exporter.model import Result
from exporter.pages import charts
from exporter.pages.charts import BOX_WIDTH, HEIGHT, MAX_STEPS, sparkline
from exporter.queries.records import StepReport
from tests.pages.fake_reports import NOW, STEPS, endings, step


def timeline(*about) -> Any:
    """The timeline, whose bars may be None."""
    return charts.timeline(*about)


def graph(steps) -> Any:
    return charts.graph(steps)


def bars(path):
    return len(re.findall(rf"M\d+ {HEIGHT}v", path))


def test_a_sparkline_has_a_bar_for_each_run_and_a_mark_above_each_that_failed():
    line = sparkline(endings(Result.SUCCESS, Result.FAILURE, Result.TIMEOUT, Result.SKIP))
    assert (bars(line.good), bars(line.bad), bars(line.calm)) == (1, 2, 1)
    assert line.bad.count(" 0h") == 2
    assert line.label == "4 recent runs, 2 failed"


def test_the_latest_run_is_at_the_right_end_no_matter_how_few_there_are():
    (x,) = re.findall(r"M(\d+) 22", sparkline(endings(Result.SUCCESS)).good)
    assert int(x) == sparkline(()).width - 4


def test_the_latest_runs_are_shown_if_there_are_more_than_bars():
    assert bars(sparkline(endings(*[Result.FAILURE] * 30, *[Result.SUCCESS] * 20)).good) == 20


def test_without_runs_there_is_an_empty_picture_that_says_so():
    line = sparkline(())
    assert (line.good, line.bad, line.calm, line.label) == ("", "", "", "no runs yet")


def test_bars_are_where_the_steps_ran():
    drawn = timeline(STEPS, NOW - 3600 - 90, NOW)
    assert drawn.placed == "exact"
    assert drawn.length == 88
    assert [bar and (bar.x, bar.width) for bar in drawn.bars[:2]] == [(0.0, 227.3), (227.3, 227.3)]
    assert drawn.bars[2].usual == pytest.approx(1000 * 60 / 88, abs=0.1)
    assert drawn.bars[4] is None


def test_the_bar_of_an_active_step_ends_now():
    drawn = timeline([step("a", 0, 10), StepReport(name="b", start=NOW - 3600 - 80)], None, NOW - 3600 - 50)
    assert drawn.bars[1].x + drawn.bars[1].width == pytest.approx(1000)


def test_steps_without_starts_are_placed_by_their_dependencies():
    steps = [
        StepReport(name="last", duration=10.0, dependencies=("left", "right")),
        StepReport(name="left", duration=30.0, dependencies=("first",)),
        StepReport(name="right", duration=5.0, dependencies=("first",)),
        StepReport(name="first", duration=10.0),
    ]
    drawn = timeline(steps, None, NOW)
    assert drawn.placed == "derived"
    assert [bar.x for bar in drawn.bars] == [800, 200, 200, 0]


def test_steps_with_durations_only_all_start_at_0():
    drawn = timeline([StepReport(name="a", duration=10.0), StepReport(name="b", duration=20.0)], None, NOW)
    assert (drawn.placed, [bar.x for bar in drawn.bars], drawn.length) == ("", [0, 0], 20)


def test_a_run_without_steps_has_an_empty_timeline():
    assert timeline([], None, NOW).bars == ()


def test_a_step_that_took_no_time_is_still_visible():
    drawn = timeline([step("a", 0, 100), step("b", 100, 100)], None, NOW)
    assert (drawn.bars[1].x, drawn.bars[1].width) == (996, 4)


def test_a_step_is_right_of_all_its_dependencies():
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


def test_cycles_and_self_dependencies_terminate():
    drawn = graph([step("a", 0, 1, after=["c", "a"]), step("b", 1, 2, after=["a"]), step("c", 2, 3, after=["b"])])
    assert len(drawn.boxes) == 3


def test_a_long_chain_is_drawn_and_too_many_steps_are_not():
    chain = [step("0", 0, 1), *(step(str(number), 0, 1, after=[str(number - 1)]) for number in range(1, MAX_STEPS))]
    assert len({box.x for box in graph(chain[::-1]).boxes}) == MAX_STEPS
    assert graph([*chain, step("more", 0, 1, after=["0"])]) is None
