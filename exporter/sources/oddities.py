"""Logs unusable values of an API: each kind once, and never the value itself."""

import re
from collections.abc import Iterable

import structlog

MAX_SHAPE_LENGTH = 40

Oddity = tuple[str, object]
"""The problem with a value, and the value."""


class Oddities:
    """Logs each kind of oddity once."""

    def __init__(self, source: str) -> None:
        self._log = structlog.get_logger().bind(source=source)
        self._logged = set[str]()

    def note(self, oddities: Iterable[Oddity]) -> None:
        """Log the kinds that were not logged yet."""
        for problem, value in oddities:
            if problem not in self._logged:
                self._logged.add(problem)
                self._log.warning(problem, looks_like=shape_of(value))


def shape_of(value: object) -> str:
    """Return a value with each digit replaced by 9 and each letter by a: the value may be customer data."""
    text = re.sub(r"\d", "9", str(value)[:MAX_SHAPE_LENGTH])
    return re.sub(r"[^\W\d_]", "a", text)
