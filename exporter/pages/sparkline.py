"""Computes a bar chart of a job's recent runs. A template draws it. Pure functions."""

from collections.abc import Sequence

import msgspec

from exporter.model import FAILING
from exporter.pages.formatting import plural
from exporter.pages.style import tone
from exporter.queries.records import RECENT, CompletedRun

BAR_WIDTH = 4
BAR_DISTANCE = 6
"""Pixels from the start of one bar to the start of the next."""
HEIGHT = 22
TOP = 5
"""Pixels above the highest bar for the marks of failed runs."""
MIN_HEIGHT = 3


class Sparkline(msgspec.Struct, frozen=True, kw_only=True):
    """One SVG path per tone, with bars from the oldest to the latest run. `label`: the chart in words."""

    good: str
    bad: str
    calm: str
    label: str
    width: int
    height: int = HEIGHT


def sparkline(runs: Sequence[CompletedRun], max_bars: int = RECENT) -> Sparkline:
    """Return the chart. A bar's height is the run's duration; failed runs have a mark above the bar.

    Args:
        runs: The runs, oldest first.
        max_bars: Width of the chart, in bars. If there are more runs, the latest are shown.
    """
    # A path per tone instead of an element per run keeps a page of 500 jobs small.
    paths = {"good": "", "bad": "", "calm": ""}
    longest = max((run.duration or 0.0 for run in runs), default=0.0)
    shown = runs[-max_bars:] if max_bars else ()
    for number, run in enumerate(shown, max_bars - len(shown)):
        paths[tone(run.result)] += _bar(number * BAR_DISTANCE, run, longest)
    return Sparkline(
        good=paths["good"],
        bad=paths["bad"],
        calm=paths["calm"],
        label=_label(shown),
        width=max(1, max_bars * BAR_DISTANCE - (BAR_DISTANCE - BAR_WIDTH)),
    )


def _bar(x: int, run: CompletedRun, longest: float) -> str:
    share = (run.duration or 0.0) / longest if longest > 0 else 0.0
    height = round(MIN_HEIGHT + (HEIGHT - TOP - MIN_HEIGHT) * share)
    mark = f"M{x} 0h{BAR_WIDTH}l-{BAR_WIDTH // 2} 3z" if run.result in FAILING else ""
    return f"M{x} {HEIGHT}v-{height}h{BAR_WIDTH}v{height}z{mark}"


def _label(runs: Sequence[CompletedRun]) -> str:
    failing = sum(run.result in FAILING for run in runs)
    return f"{plural(len(runs), 'recent run')}, {failing or 'none'} failed" if runs else "no runs yet"
