"""Texts and colors that all dashboards share.

Color means severity: red for conditions of critical alerts, orange for warnings, blue for what can wait, green for
known and healthy, grey for unknown. Each result has one color on all dashboards. Colors are Grafana's names where
possible, because those change with the theme.
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from dashboards.model import Json
from exporter.snapshot.conditions import FAILURES_TO_PAGE, LOW_RATE_LIMIT, MIN_LAG

GOOD, NOTICE, WARNING, BAD, ERROR = "green", "blue", "orange", "red", "dark-red"
NEARLY: Final = 0.8
"""Fraction of a limit above which it is nearly reached."""

QUIET: Final = "#8e9199"
"""Grey that is readable on both themes: canceled, skipped, no data."""


BACKGROUNDS: Final = {
    GOOD: "#2e7d32",
    NOTICE: "#1f60c4",
    WARNING: "#a85400",
    "dark-orange": "#a34700",
    BAD: "#c4162a",
    ERROR: "#ad0317",
    "purple": "#8f3bb8",
    QUIET: "#5f636b",
    "#a5a9b5": "#6b6f78",
}
"""A darker shade of each color: Grafana writes in white on them, which needs a contrast of 4.5 in both themes."""


def as_background(part: Any) -> Any:  # noqa: ANN401  # any JSON
    """Return a part of a panel with the shades of `BACKGROUNDS`, for tiles and cells that are filled with a color."""
    if isinstance(part, dict):
        colored = {key: part[key] for key in ("color", "fixedColor") if isinstance(part.get(key), str)}
        shades = {key: BACKGROUNDS.get(color, color) for key, color in colored.items()}
        return {key: as_background(value) for key, value in part.items()} | shades
    return [as_background(each) for each in part] if isinstance(part, list | tuple) else part


class Word(msgspec.Struct, frozen=True):
    """A value of the label `result`, `status` or `state`. `code` represents it in a time line; larger is worse."""

    word: str
    code: int
    color: str


RESULTS: Final = (
    Word("success", 1, GOOD),
    Word("skip", 2, "#a5a9b5"),
    Word("cancellation", 3, QUIET),
    Word("unknown", 4, "purple"),
    Word("timeout", 5, "dark-orange"),
    Word("error", 6, ERROR),
    Word("failure", 7, BAD),
)
STATES: Final = (Word("pending", 11, "yellow"), Word("executing", 12, NOTICE))
LATE: Final = Word("overdue", 21, WARNING)
OFF: Final = Word("disabled", 31, WARNING)
DOWN: Final = Word("cannot be read", 32, BAD)
FAILED: Final = "failure|error|timeout"
"""Results that are failures, as a regular expression."""


def named(words: Iterable[Word]) -> Json:
    """Return the value mapping of words in a label."""
    return {"type": "value", "options": {each.word: {"color": each.color, "index": i} for i, each in enumerate(words)}}


def coded(words: Iterable[Word]) -> Json:
    """Return the value mapping of the codes of a time line."""
    options = {str(each.code): {"text": each.word, "color": each.color, "index": i} for i, each in enumerate(words)}
    return {"type": "value", "options": options}


def text_of(*values: tuple[float, str, str]) -> Json:
    """Return the value mapping of numbers with texts and colors."""
    options = {f"{value:g}": {"text": text, "color": color} for value, text, color in values}
    return {"type": "value", "options": options}


def ranged(*ranges: tuple[float, float | None, str, str]) -> list[Json]:
    """Return value mappings of ranges of numbers: from, to (None: no end), text, color."""
    return [
        {"type": "range", "options": {"from": low, "to": high, "result": {"text": text, "color": color, "index": i}}}
        for i, (low, high, text, color) in enumerate(ranges)
    ]


def override(name: str, **properties: object) -> Json:
    """Return an override of one series; `__` in the name of a property means a dot."""
    values = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": values}


def fixed(color: str) -> Json:
    """Return one color for all values."""
    return {"mode": "fixed", "fixedColor": color}


def shades_of(color: str) -> Json:
    """Return shades of one color, a shade per series."""
    return {"mode": "shades", "fixedColor": color}


def painted(words: Iterable[Word]) -> list[Json]:
    """Return overrides that give the series of each word its color."""
    return [override(each.word, color=fixed(each.color)) for each in words]


def steps(first: str, *rest: tuple[float, str]) -> Json:
    """Return thresholds: the lowest color, then each color from its value on."""
    all_steps: list[Json] = [{"color": first, "value": None}]
    return {"mode": "absolute", "steps": all_steps + [{"color": color, "value": value} for value, color in rest]}


def known(first: str, *rest: tuple[float, str]) -> Json:
    """Return thresholds with grey for unknown, because unknown must never look healthy."""
    return steps(QUIET, (-1e9, first), *rest)


def unknown(text: str) -> Json:
    """Return the value mapping of a missing number."""
    return {"type": "special", "options": {"match": "null+nan", "result": {"text": text, "color": QUIET}}}


FEW_RUNS, NO_RUN, UNKNOWN_JOB = -1, -2, -3
"""Values of a number that is not known, by the reason."""
REASONS: Final[Json] = text_of((FEW_RUNS, "few runs", QUIET), (NO_RUN, "no run", QUIET), (UNKNOWN_JOB, "no job", QUIET))
NO_NUMBER: Final[Json] = {"type": "special", "options": {"match": "nan", "result": {"text": "-"}}}
"""Value mapping of NaN, such as a quantile without observations."""
ENDLESS: Final[Json] = {"type": "range", "options": {"from": 1e12, "to": None, "result": {"text": "always"}}}
"""Value mapping of how long a source is behind of which no batch was complete."""
STREAKS: Final = ranged(
    (0, 0, "well", GOOD),
    (1, FAILURES_TO_PAGE - 1, "failing", WARNING),
    (FAILURES_TO_PAGE, None, "failing repeatedly", BAD),
)
NEUTRAL: Final = steps("text")
PLAIN: Final = steps("transparent")
"""Thresholds of a tile without a color."""
UNKNOWN: Final = steps(QUIET)
ANY_IS_CRITICAL: Final = known(GOOD, (1, BAD))
ANY_IS_A_WARNING: Final = known(GOOD, (1, WARNING))
STREAK: Final = steps("text", (1, WARNING), (FAILURES_TO_PAGE, BAD))
SUCCESS_RATIO: Final = known(WARNING, (0.99, GOOD))
SHARE_USED: Final = known(GOOD, (NEARLY, NOTICE), (1, WARNING))
"""Thresholds of an objective or a budget: a notice from four fifths on, a warning when it is used up."""
SHARE_LEFT: Final = known(WARNING, (LOW_RATE_LIMIT, NOTICE), (0.25, GOOD))
LAG: Final = known(GOOD, (MIN_LAG / 2, NOTICE), (MIN_LAG, WARNING))
"""Thresholds of the lag in seconds. JobrunSourceStale fires at the second."""
REDS: Final = shades_of(BAD)
"""Color of series that are all failures and have no colors of their own."""
ORANGES: Final = shades_of(WARNING)


class Severity(msgspec.Struct, frozen=True):
    """A severity: the label `severity` of alerts, and `rank`, which is larger for more urgent ones."""

    word: str
    rank: int
    color: str
    place: str = ""

    @property
    def label(self) -> str:
        """Return the word for tables that are sorted by it, after its place."""
        return f"{self.place}{self.word}"


MANY: Final = Severity("critical", 4, BAD, "a-")
"""Critical for many jobs: before the problems of single jobs."""
CRITICAL: Final = Severity("critical", 4, BAD)
WARNS: Final = Severity("warning", 3, WARNING)
INFO: Final = Severity("info", 2, NOTICE, "z-")
NOT_KNOWN: Final = Severity("not known", 1, QUIET)
WELL: Final = Severity("well", 0, GOOD)
SEVERITIES: Final = (CRITICAL, WARNS, INFO, NOT_KNOWN, WELL)
RANKS: Final = text_of(*((each.rank, each.word, each.color) for each in SEVERITIES))
"""Value mapping of ranks."""
RANK_RANGES: Final = ranged(*((each.rank, each.rank + 0.99, each.word, each.color) for each in SEVERITIES))
"""Value mappings of ranks with a fraction."""
LEVELS: Final = {
    "type": "value",
    "options": {
        each.label: {"text": each.word, "color": each.color, "index": index}
        for index, each in enumerate((MANY, *SEVERITIES))
    },
}
"""Value mapping of the label `severity`."""
