"""Read marks: how far each recipe's jobs have been read. Rules that say when a search for jobs ends."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from exporter.model import Run
from exporter.sources.workato.api import Recipe

Kept = TypeVar("Kept")

MAX_TRIES = 3
"""Maximum number of searches for completed jobs that a recipe counts, but that no page shows."""

AGAIN = "again"
"""A `last_run` that no recipe has, so that the next poll reads its jobs."""


class ReadMark(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """How far a recipe's jobs have been read.

    Attributes:
        succeeded: Number of successful jobs that the recipe counted when its jobs were last read.
        failed: Number of failed jobs that it counted then.
        last_run: Its `last_run_at` then, or AGAIN.
        missing: Number of completed jobs that it counted, but that were not found.
        surplus: Number of completed jobs that were found, but that it did not count yet.
        tries: Number of complete searches that did not find the missing jobs.
        unread_offsets: IDs of jobs, newest first. The pages after each of these jobs are unread.
    """

    succeeded: int | None = None
    failed: int | None = None
    last_run: str = ""
    missing: int = 0
    surplus: int = 0
    tries: int = 0
    unread_offsets: tuple[str, ...] = ()

    @property
    def is_unfinished(self) -> bool:
        """Return whether jobs are missing or pages are unread."""
        return self.missing > 0 or bool(self.unread_offsets)


class UnreadableRecipe(msgspec.Struct, frozen=True, array_like=True):
    """A recipe whose jobs cannot be read: time of the first failed try, and time up to which its jobs were read."""

    since: float
    read: float


MARKS: msgspec.json.Decoder[dict[str, ReadMark]] = msgspec.json.Decoder(dict[str, ReadMark])
UNREADABLE: msgspec.json.Decoder[dict[str, UnreadableRecipe]] = msgspec.json.Decoder(dict[str, UnreadableRecipe])


def marks_key(scope: str) -> str:
    """Return the name of the checkpoint with a scope's read marks."""
    return f"marks/{scope}"


def unreadable_key(scope: str) -> str:
    """Return the name of the checkpoint with a scope's unreadable recipes."""
    return f"unread/{scope}"


def decode_checkpoint(text: str, decoder: msgspec.json.Decoder[dict[str, Kept]]) -> dict[str, Kept]:
    """Return the values in a checkpoint by recipe ID; no values if the checkpoint is unreadable."""
    try:
        return decoder.decode(text) if text else {}
    except msgspec.DecodeError:
        return {}


def encode_checkpoint(kept: Mapping[str, Kept]) -> str:
    """Return the text of a checkpoint; "" if there are no values."""
    return msgspec.json.encode(kept).decode() if kept else ""


def needs_read(mark: ReadMark | None, recipe: Recipe) -> bool:
    """Return whether jobs may have started or completed since the mark, or were not found before."""
    if mark is None or mark.is_unfinished:
        return True
    shown = (recipe.succeeded, recipe.failed, recipe.last_run)
    return shown != (mark.succeeded, mark.failed, mark.last_run) or shown == (None, None, "")


def count_missing(mark: ReadMark | None, recipe: Recipe) -> int | None:
    """Return the number of completed jobs to find; negative if earlier searches found more than the recipe counts.

    Return None if the counts are absent or have fallen.
    """
    if mark is None:
        return None
    pairs = ((mark.succeeded, recipe.succeeded), (mark.failed, recipe.failed))
    if any(before is None or now is None or now < before for before, now in pairs):
        return None
    rise = sum((now or 0) - (before or 0) for before, now in pairs)
    return mark.missing - mark.surplus + rise


class SearchTarget(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions under which a search ends.

    Attributes:
        missing: The number of completed jobs to find; None if unknown.
        floor: The search ends at jobs that started before this time.
        baseline: Jobs that completed before this time do not count; None if the recipe was read before.
        deep: Whether to continue after known jobs, down to the floor, because the last search did not find all jobs.
    """

    missing: int | None
    floor: float
    baseline: float | None = None
    deep: bool = False


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs, newest first.

    Attributes:
        unseen: IDs of runs that are neither in the state nor on an earlier page.
        repeated: Whether all runs were on earlier pages.
    """

    runs: Sequence[Run]
    unseen: frozenset[str]
    repeated: bool = False

    @property
    def oldest(self) -> float:
        """Return the earliest start of a run on the page; infinite if there is none."""
        return min((run.start for run in self.runs if run.start is not None), default=float("inf"))


def is_last(page: JobPage, target: SearchTarget, found: int) -> bool:
    """Return whether the search ends with this page. `found`: total number of completed jobs found so far."""
    # A page with few runs is not always the last.
    if not page.runs or page.repeated or page.oldest < target.floor:
        return True
    if not page.unseen:
        return not target.deep
    if target.baseline is not None and all(run.end is not None and run.end < target.baseline for run in page.runs):
        return True
    # The search ends when all missing jobs are found. But if all jobs of this page are unseen, the next one may have an
    # active job.
    return target.missing is not None and found >= target.missing and len(page.unseen) < len(page.runs)


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search.

    Attributes:
        found: Number of newly completed jobs, without those that ended before the baseline.
        recent: Number of jobs that completed so recently that the recipe may not count them yet.
        unread_offsets: IDs of jobs after which pages are unread.
        lacks_end: Whether a newly completed job has no end yet.
        beyond: Whether the search went past the floor. Jobs that are still missing are then lost.
    """

    found: int
    recent: int = 0
    unread_offsets: tuple[str, ...] = ()
    lacks_end: bool = False
    beyond: bool = False


def mark_after(
    recipe: Recipe, mark: ReadMark | None, target: SearchTarget, result: SearchResult
) -> tuple[ReadMark, bool]:
    """Return the mark after a search, and whether missing jobs are lost."""
    missing = max(0, (target.missing or 0) - result.found)
    tries = (mark.tries if mark else 0) + (not result.unread_offsets) if missing else 0
    lost = tries > MAX_TRIES or (missing > 0 and not result.unread_offsets and result.beyond)
    surplus = max(0, result.found - (target.missing or 0))
    new = ReadMark(
        succeeded=recipe.succeeded,
        failed=recipe.failed,
        last_run=AGAIN if result.lacks_end else recipe.last_run,
        missing=0 if lost else missing,
        surplus=result.recent if target.missing is None else min(result.recent, surplus),
        tries=0 if lost else tries,
        unread_offsets=result.unread_offsets,
    )
    return new, lost
