"""Values of an API that could not be used: each kind is logged once, without the value itself."""

import re
from collections.abc import Iterable

import structlog

LONGEST_SHAPE = 40
FUTURE_MARGIN = 300.0
"""Seconds by which an end may lie in the future: clocks differ."""

NO_RUN = "row of a list is not a run: it has no ID that can be read"

Oddity = tuple[str, object]
"""What is odd about a value, and the value."""


class Oddities:
    """Logs each kind of oddity once.

    Args:
        source: The source's name.
    """

    def __init__(self, source: str) -> None:
        self._log = structlog.get_logger().bind(source=source)
        self._logged = set[str]()

    def note(self, oddities: Iterable[Oddity]) -> None:
        """Log those of a kind that was not logged yet."""
        for what, value in oddities:
            if what not in self._logged:
                self._logged.add(what)
                self._log.warning(what, looks_like=shape_of(value))


def shape_of(value: object) -> str:
    """How a value looks, with 9 for each digit and a for each letter: it may be customers' data."""
    text = re.sub(r"\d", "9", str(value)[:LONGEST_SHAPE])
    return re.sub(r"[^\W\d_]", "a", text)
