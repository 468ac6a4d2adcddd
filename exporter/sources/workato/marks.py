"""How far a recipe's jobs have been read, as the state keeps it, and when a search through their pages may stop."""

from collections.abc import Collection, Mapping

import msgspec

from exporter.sources.unreadable import awaited, counted
from exporter.sources.workato.api import JobRow, Recipe

MOST_TRIES = 3
"""Polls that look once more for jobs that the counts tell of and the pages do not show."""


class ReadMark(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is known of a recipe's jobs.

    Attributes:
        succeeded: The recipe's count of jobs that succeeded, when its jobs were last read.
        failed: Likewise of those that failed.
        last_run: Its `last_run_at` then.
        owed: How many ended jobs the counts told of that have not been found.
        ahead: How many were found lately that the counts did not yet tell of.
        tries: How often they were looked for in vain; a search that leaves gaps goes on with the next poll.
        gaps: Ids of jobs after which older pages are still to be read, newest first.
        unreadable: In how many polls in a row there were rows that could not be read.
    """

    succeeded: int | None = None
    failed: int | None = None
    last_run: str = ""
    owed: int = 0
    ahead: int = 0
    tries: int = 0
    gaps: tuple[str, ...] = ()
    unreadable: int = 0


MARKS: msgspec.json.Decoder[dict[str, ReadMark]] = msgspec.json.Decoder(dict[str, ReadMark])


def decode_marks(note: str) -> dict[str, ReadMark]:
    """The marks of a scope's recipes by id; none if the note cannot be read."""
    try:
        return MARKS.decode(note) if note else {}
    except msgspec.DecodeError:
        return {}


def encode_marks(marks: Mapping[str, ReadMark]) -> str:
    """The note that holds these marks."""
    return msgspec.json.encode(marks).decode()


class Unread(msgspec.Struct, frozen=True, array_like=True):
    """A recipe whose jobs cannot be read. `since`: the first failed try; `read`: all before this time was read then."""

    since: float
    read: float


UNREAD: msgspec.json.Decoder[dict[str, Unread]] = msgspec.json.Decoder(dict[str, Unread])


def decode_unread(note: str) -> dict[str, Unread]:
    """The recipes of a scope that cannot be read; none if the note cannot be read."""
    try:
        return UNREAD.decode(note) if note else {}
    except msgspec.DecodeError:
        return {}


def encode_unread(unread: Mapping[str, Unread]) -> str:
    """The note that holds them, "" for none."""
    return msgspec.json.encode(unread).decode() if unread else ""


def moved(mark: ReadMark, recipe: Recipe) -> bool:
    """Whether jobs may have ended or started since; a recipe that tells neither counts nor times always may."""
    told = (recipe.succeeded, recipe.failed, recipe.last_run)
    return told != (mark.succeeded, mark.failed, mark.last_run) or told == (None, None, "")


def to_be_read(mark: ReadMark | None, recipe: Recipe) -> bool:
    """Whether this poll shall read the recipe's jobs, open ones aside."""
    return mark is None or moved(mark, recipe) or unfinished(mark)


def owed(mark: ReadMark | None, recipe: Recipe) -> int | None:
    """How many ended jobs are to be found now; below 0 if more have been found than the counts yet tell of.

    None if the counts do not tell: they are missing, or have fallen.
    """
    if mark is None:
        return None
    pairs = ((mark.succeeded, recipe.succeeded), (mark.failed, recipe.failed))
    if any(before is None or now is None or now < before for before, now in pairs):
        return None
    rise = sum((now or 0) - (before or 0) for before, now in pairs)
    return mark.owed - mark.ahead + rise


class SearchTarget(msgspec.Struct, frozen=True, kw_only=True):
    """When a search is over.

    Attributes:
        owed: How many ended jobs there are to be found; None if that is not known.
        floor: What started before this instant is not read.
        baseline: For a recipe that is read for the first time, the instant up to which endings do not count.
        deep: The search goes on through known jobs down to the floor, as the one before did not find all.
    """

    owed: int | None
    floor: float
    baseline: float | None = None
    deep: bool = False


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One page of jobs, newest first.

    `unseen`: ids that neither the state nor an earlier page has shown. `repeated`: earlier pages have shown all of it.
    """

    rows: tuple[JobRow, ...]
    unseen: frozenset[str]
    repeated: bool = False

    @property
    def oldest(self) -> float:
        """The earliest start on it; infinite if it has none."""
        return min((row.started for row in self.rows if row.started is not None), default=float("inf"))


def is_last(page: Page, goal: SearchTarget, *, found: int, ended: Collection[str]) -> bool:
    """Whether the search need not go beyond this page, after which `found` ended jobs have been found in all.

    `ended`: ids of the page's jobs that have ended. A short page says nothing. Where the jobs owed are found, a known
    job must have been met as well: below an unseen one there may be another that is still open.
    """
    if not page.rows or page.repeated:
        return True
    if page.oldest < goal.floor:
        return True
    if not page.unseen:
        return not goal.deep
    if goal.baseline is not None and _all_older(page, goal.baseline, ended):
        return True
    return goal.owed is not None and found >= goal.owed and len(page.unseen) < len(page.rows)


def _all_older(page: Page, baseline: float, ended: Collection[str]) -> bool:
    return all(row.job_id in ended and row.completed is not None and row.completed < baseline for row in page.rows)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search has come to.

    Attributes:
        ended: How many ended jobs it has found that were not known as such, those of before the baseline aside.
        recent: How many of all jobs shown ended so lately that the counts may not yet tell of them.
        gaps: Ids of jobs after which it has not read on.
        beyond: Whether it has read past the floor: what was not found is lost.
        invalid: How many rows it could not read.
    """

    ended: int
    recent: int = 0
    gaps: tuple[str, ...] = ()
    beyond: bool = False
    invalid: int = 0


def after(recipe: Recipe, mark: ReadMark | None, goal: SearchTarget, found: Found) -> tuple[ReadMark, bool]:
    """The mark after a search, and whether jobs that the counts tell of are given up as not to be found."""
    still = max(0, (goal.owed or 0) - found.ended)
    tries = (mark.tries if mark else 0) + (not found.gaps) if still else 0
    missed = tries > MOST_TRIES or (still > 0 and not found.gaps and found.beyond)
    new = ReadMark(
        succeeded=recipe.succeeded,
        failed=recipe.failed,
        last_run=recipe.last_run,
        owed=0 if missed else still,
        ahead=found.recent if goal.owed is None else min(found.recent, max(0, found.ended - goal.owed)),
        tries=0 if missed else tries,
        gaps=found.gaps,
        unreadable=counted(mark.unreadable if mark else 0, found.invalid),
    )
    return new, missed


def unfinished(mark: ReadMark | None) -> bool:
    """Whether jobs are still to be found, pages to be read, or rows to be read again."""
    return mark is not None and (mark.owed > 0 or bool(mark.gaps) or awaited(mark.unreadable))


def is_deep(mark: ReadMark | None) -> bool:
    """Whether the next search shall go on through known jobs."""
    return mark is not None and (mark.tries > 0 or awaited(mark.unreadable))
