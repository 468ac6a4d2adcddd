"""The look of statuses and results: a tone, which is a color, and a symbol."""

from collections.abc import Mapping
from typing import NamedTuple

from exporter.model import FAILING, Result


class Look(NamedTuple):
    """`tone`: a class of the style sheet. `symbol`: an ID in the page's sprite."""

    tone: str
    symbol: str


UNKNOWN = Look("calm", "dash")

# Each status has a symbol too, because not everybody can see the color.
LOOKS: Mapping[str, Look] = {
    "failing": Look("bad", "cross"),
    "overdue": Look("bad", "clock"),
    "stale": Look("warn", "clock"),
    "stuck": Look("warn", "stuck"),
    "ok": Look("good", "check"),
    "idle": UNKNOWN,
    "disabled": Look("calm", "pause"),
    "success": Look("good", "check"),
    "failure": Look("bad", "cross"),
    "error": Look("bad", "cross"),
    "timeout": Look("bad", "clock"),
    "cancellation": Look("calm", "stop"),
    "skip": Look("calm", "skip"),
    "unknown": Look("warn", "question"),
    "executing": Look("busy", "play"),
    "pending": Look("calm", "clock"),
    "up": Look("good", "check"),
    "down": Look("bad", "cross"),
    "partial": Look("warn", "triangle"),
    "waiting": UNKNOWN,
    "critical": Look("bad", "cross"),
    "warning": Look("warn", "triangle"),
    "info": Look("calm", "info"),
}


def look(word: str) -> Look:
    """Return the look of a status or result; a question mark if it has none."""
    return LOOKS.get(word, Look("warn", "question"))


def tone(result: Result | None) -> str:
    """Return `good` for a success, `bad` for a failure, and `calm` for other results and active runs."""
    if result is Result.SUCCESS:
        return "good"
    return "bad" if result in FAILING else "calm"
