"""The words and colours that all dashboards share: a result has one colour wherever it is seen.

Colours are Grafana's names where it has one, because those change with the theme.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from dashboards.model import Json

GOOD, NOTICE, WARNING, BAD, ERROR = "green", "blue", "orange", "red", "dark-red"
QUIET: Final = "#8e9199"
"""Grey that reads on both themes: cancelled, skipped, nothing to say."""


class Word(msgspec.Struct, frozen=True):
    """A value of the label `result`, `status` or `state`; `code` stands for it in a time line: larger is worse."""

    word: str
    code: int
    colour: str


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
ON_TIME: Final = Word("not overdue", 20, GOOD)
LATE: Final = Word("overdue", 21, WARNING)
FAILED: Final = "failure|error|timeout"
"""The results after which a job is not well, as a regular expression."""


def named(words: Iterable[Word]) -> Json:
    """Value mapping of the words as they stand in a label."""
    return {"type": "value", "options": {each.word: {"color": each.colour, "index": i} for i, each in enumerate(words)}}


def coded(words: Iterable[Word]) -> Json:
    """Value mapping of the codes of a time line."""
    options = {str(each.code): {"text": each.word, "color": each.colour, "index": i} for i, each in enumerate(words)}
    return {"type": "value", "options": options}


def text_of(*values: tuple[float, str, str]) -> Json:
    """Value mapping of numbers, each with its text and colour."""
    options = {f"{value:g}": {"text": text, "color": colour} for value, text, colour in values}
    return {"type": "value", "options": options}


def ranged(*ranges: tuple[float, float | None, str, str]) -> list[Json]:
    """Value mappings of ranges of numbers: from, to (None: no end), text, colour."""
    return [
        {"type": "range", "options": {"from": low, "to": high, "result": {"text": text, "color": colour, "index": i}}}
        for i, (low, high, text, colour) in enumerate(ranges)
    ]


STREAKS: Final = ranged((0, 0, "well", GOOD), (1, 2, "failing", WARNING), (3, None, "failing repeatedly", BAD))


def override(name: str, **properties: object) -> Json:
    """What is special about one series; `__` in the name of a property stands for a dot."""
    values = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": "byName", "options": name}, "properties": values}


def fixed(colour: str) -> Json:
    """One colour whatever the value."""
    return {"mode": "fixed", "fixedColor": colour}


def painted(words: Iterable[Word]) -> list[Json]:
    """Overrides that give the series of each word its colour."""
    return [override(each.word, color=fixed(each.colour)) for each in words]


def steps(first: str, *rest: tuple[float, str]) -> Json:
    """Thresholds: the colour from below, then each colour from its value on."""
    all_steps: list[Json] = [{"color": first, "value": None}]
    return {"mode": "absolute", "steps": all_steps + [{"color": colour, "value": value} for value, colour in rest]}


def known(first: str, *rest: tuple[float, str]) -> Json:
    """Thresholds of what may be unknown: grey then, for nothing known must never look like all well."""
    return steps(QUIET, (-1e9, first), *rest)


NEUTRAL: Final = steps("text")
UNKNOWN: Final = steps(QUIET)
ANY_IS_BAD: Final = known(GOOD, (1, BAD))
ANY_IS_A_WARNING: Final = known(GOOD, (1, WARNING))
STREAK: Final = known(GOOD, (1, WARNING), (3, BAD))
SUCCESS_RATIO: Final = known(BAD, (0.9, WARNING), (0.99, GOOD))
SHARE_USED: Final = known(GOOD, (0.8, WARNING), (1, BAD))
"""Of an objective or a budget: a warning from four fifths on."""
SHARE_LEFT: Final = known(BAD, (0.1, WARNING), (0.25, GOOD))
LAG: Final = known(GOOD, (300, WARNING), (900, BAD))
"""Seconds that counting is behind: the alert on a stale source comes at a quarter of an hour."""
REDS: Final[Json] = {"mode": "shades", "fixedColor": BAD}
"""For series that are all bad news, and have no colours of their own."""
