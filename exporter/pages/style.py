"""How words of status look: a tone (a colour) and a symbol, and always the word itself."""

from collections.abc import Mapping
from typing import NamedTuple

from exporter.model import FAILING, Result


class Look(NamedTuple):
    """`tone`: a class of the style sheet. `symbol`: an id in the page's sprite."""

    tone: str
    symbol: str


UNSEEN = Look("calm", "dash")

LOOKS: Mapping[str, Look] = {
    "failing": Look("bad", "cross"),
    "overdue": Look("bad", "clock"),
    "stale": Look("warn", "clock"),
    "stuck": Look("warn", "stuck"),
    "ok": Look("good", "check"),
    "idle": UNSEEN,
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
    "waiting": UNSEEN,
    "critical": Look("bad", "cross"),
    "warning": Look("warn", "triangle"),
}


def look(word: str) -> Look:
    """The look of a word; of one that is not known, that of a question."""
    return LOOKS.get(word, Look("warn", "question"))


def tone(result: Result | None) -> str:
    """`good`, `bad`, or `calm` for what is neither (or has not ended)."""
    if result is Result.SUCCESS:
        return "good"
    return "bad" if result in FAILING else "calm"
