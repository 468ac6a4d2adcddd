import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config.source import SourceSettings
from exporter.model import Window
from exporter.sources.windows import CLOCK_MARGIN, Plan, halves, plan, split

DAY, HOUR = 86400.0, 3600.0
NOW = 1_700_000_000.5
END = math.floor(NOW - CLOCK_MARGIN)
HORIZON = math.ceil(NOW - 7 * DAY + 600)


def plan_of(watermark, *, now=NOW, sweep=None, **keys) -> Plan:
    settings = SourceSettings.model_construct(**{"lookback": 7 * DAY, "overlap": HOUR, "settle": 60.0, **keys})
    return plan(now, watermark, settings, api=7 * DAY - 600.0, maximum=96 * HOUR, sweep=sweep)


@pytest.mark.parametrize(
    ("watermark", "keys", "sweep", "start"),
    [
        (None, {}, None, HORIZON),
        (None, {"lookback": HORIZON}, None, HORIZON),  # the first poll reads as deep as the API shows
        (None, {"lookback": HOUR}, None, HORIZON),
        (NOW - 120, {}, None, math.floor(NOW - 120 - HOUR)),
        (NOW - 120, {}, DAY, math.floor(NOW - DAY)),
        (NOW - 2 * DAY, {}, DAY, math.floor(NOW - 2 * DAY - HOUR)),  # a sweep never shortens what is due
        (NOW - 3 * DAY, {"lookback": 2 * DAY}, None, math.ceil(NOW - 2 * DAY)),
        (NOW - 9 * DAY, {}, None, HORIZON),
        (NOW - 9 * DAY, {}, DAY, HORIZON),
        (NOW + 10, {}, None, HORIZON),  # set by a clock that was ahead: no time counts as read
        (NOW + 10 * DAY, {}, DAY, HORIZON),
        (NOW - 120, {"overlap": 0.0}, None, math.floor(NOW - 120)),
        (NOW, {"overlap": 0.0}, None, END - 1),  # never empty
    ],
)
def test_a_poll_reads_from_the_watermark_minus_the_overlap(watermark, keys, sweep, start):
    windows = plan_of(watermark, sweep=sweep, **keys).windows
    assert (windows[0].start, windows[-1].end) == (start, END)


@pytest.mark.parametrize(
    ("watermark", "keys", "lost"),
    [
        (None, {}, None),
        (NOW - 6 * DAY, {}, None),
        (NOW - 9 * DAY, {}, Window(NOW - 9 * DAY, HORIZON)),
        (NOW - 3 * DAY, {"lookback": 2 * DAY}, Window(NOW - 3 * DAY, math.ceil(NOW - 2 * DAY))),
        (NOW + 9 * DAY, {}, None),
        (HORIZON, {}, None),  # nothing is between the two
        (HORIZON - 1, {}, Window(HORIZON - 1, HORIZON)),
    ],
)
def test_a_range_beyond_the_lookback_is_unobserved(watermark, keys, lost):
    assert plan_of(watermark, **keys).unobserved == lost


def test_a_plan_proves_settled_time_and_never_more_than_its_windows_contain():
    planned = plan_of(None)
    assert [planned.through_after(window) for window in planned.windows] == [planned.windows[0].end, END - 60]


@given(
    now=st.floats(1.6e9, 1.8e9),
    back=st.one_of(st.none(), st.floats(-1e7, 1e7)),
    overlap=st.floats(0, 1e6),
    lookback=st.floats(1, 7 * DAY),
    sweep=st.one_of(st.none(), st.floats(60, 7 * DAY)),
    settle=st.floats(0, 1e4),
)
def test_windows_always_respect_the_limits_and_leave_no_gap(now, back, overlap, lookback, sweep, settle):  # noqa: PLR0917  # what is drawn
    watermark = None if back is None else now - back
    planned = plan_of(watermark, now=now, sweep=sweep, overlap=overlap, lookback=lookback, settle=settle)
    assert all(0 < window.length <= 96 * HOUR for window in planned.windows)
    assert all(float(edge).is_integer() for window in planned.windows for edge in (window.start, window.end))
    assert planned.windows[0].start >= now - 7 * DAY + 600
    assert planned.windows[-1].end <= now
    assert all(a.end == b.start for a, b in zip(planned.windows, planned.windows[1:], strict=False))
    covered = planned.windows[0].start if planned.unobserved is None else planned.unobserved.start
    if watermark is not None and watermark < now - CLOCK_MARGIN - 1:
        assert covered <= watermark
    if planned.unobserved is not None:
        assert planned.unobserved.end >= planned.windows[0].start


@pytest.mark.parametrize(("length", "parts"), [(1.0, 1), (10.0, 1), (10.5, 2), (30.0, 3)])
def test_a_window_is_split_into_parts_no_longer_than_the_maximum(length, parts):
    found = list(split(Window(0.0, length), 10.0))
    assert len(found) == parts
    assert (found[0].start, found[-1].end) == (0.0, length)


@pytest.mark.parametrize(
    ("window", "parts"),
    [
        (Window(0, 10), (Window(0, 5), Window(5, 10))),
        (Window(0, 3), (Window(0, 1), Window(1, 3))),
        (Window(7, 9), (Window(7, 8), Window(8, 9))),
        (Window(7, 8), None),
    ],
)
def test_halves_meet_at_a_whole_second(window, parts):
    assert halves(window) == parts
