"""A job's recent runs as bars: pure geometry, which a template draws."""

from collections.abc import Sequence

import msgspec

from exporter.model import FAILING
from exporter.pages.formatting import many
from exporter.pages.style import tone
from exporter.reports.records import RECENT, Ending

STEP = 6
"""From one bar to the next, in pixels."""
BAR = 4
HEIGHT = 22
TOP = 5
"""Above the highest bar; here failing runs have their mark."""
LEAST = 3
"""Height of the shortest bar."""


class Sparkline(msgspec.Struct, frozen=True, kw_only=True):
    """Bars, oldest first, as paths of an SVG: one a tone. `label` says the same in words."""

    good: str
    bad: str
    calm: str
    label: str
    width: int
    height: int = HEIGHT


def sparkline(endings: Sequence[Ending], places: int = RECENT) -> Sparkline:
    """Bars as high as runs were long, the latest at the right of so many places; a failing one has a mark above it."""
    paths = {"good": "", "bad": "", "calm": ""}
    longest = max((ending.duration or 0.0 for ending in endings), default=0.0)
    shown = endings[-places:] if places else ()
    for number, ending in enumerate(shown, places - len(shown)):
        paths[tone(ending.result)] += _bar(number * STEP, ending, longest)
    return Sparkline(
        good=paths["good"],
        bad=paths["bad"],
        calm=paths["calm"],
        label=_label(shown),
        width=max(1, places * STEP - (STEP - BAR)),
    )


def _bar(x: int, ending: Ending, longest: float) -> str:
    share = (ending.duration or 0.0) / longest if longest > 0 else 0.0
    height = round(LEAST + (HEIGHT - TOP - LEAST) * share)
    mark = f"M{x} 0h{BAR}l-{BAR // 2} 3z" if ending.result in FAILING else ""
    return f"M{x} {HEIGHT}v-{height}h{BAR}v{height}z{mark}"


def _label(endings: Sequence[Ending]) -> str:
    failing = sum(ending.result in FAILING for ending in endings)
    return f"{many(len(endings), 'recent run')}, {failing or 'none'} failing" if endings else "no runs yet"
