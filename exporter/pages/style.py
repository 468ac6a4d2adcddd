"""The look of status words: a tone (a color) and a symbol, always next to the word itself."""

from collections.abc import Mapping
from typing import NamedTuple

from exporter.model import FAILING, Result


class Look(NamedTuple):
    """`tone`: a class of the style sheet. `symbol`: an ID in the page's sprite."""

    tone: str
    symbol: str


UNKNOWN = Look("calm", "dash")

# color alone never says anything: each word has a symbol, and stands next to it
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
    """Return the look of a word; a question mark if it is unknown."""
    return LOOKS.get(word, Look("warn", "question"))


def tone(result: Result | None) -> str:
    """Return `good`, `bad`, or `calm` for a result that is neither and for an active run."""
    if result is Result.SUCCESS:
        return "good"
    return "bad" if result in FAILING else "calm"
