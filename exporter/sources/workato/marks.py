"""Read marks: how far each recipe's jobs have been read, and when a search through their pages may stop."""

from collections.abc import Collection, Mapping
from typing import TypeVar

import msgspec

from exporter.sources.workato.api import Recipe, WorkatoJob

Kept = TypeVar("Kept")

MAX_TRIES = 3
"""Polls that search again for jobs that are in the counts and on no page."""


class ReadMark(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is known of a recipe's jobs.

    Attributes:
        succeeded: The recipe's count of successful jobs when its jobs were last read.
        failed: Its count of failed jobs then.
        last_run: Its `last_run_at` then.
        missing: Completed jobs that are in the counts but were not found.
        surplus: Completed jobs found recently that were not in the counts yet.
        tries: Searches that did not find the missing jobs; a search that leaves unread pages is not one.
        unread_offsets: IDs of jobs after which older pages are unread, newest first.
    """

    succeeded: int | None = None
    failed: int | None = None
    last_run: str = ""
    missing: int = 0
    surplus: int = 0
    tries: int = 0
    unread_offsets: tuple[str, ...] = ()


MARKS: msgspec.json.Decoder[dict[str, ReadMark]] = msgspec.json.Decoder(dict[str, ReadMark])


class UnreadRecipe(msgspec.Struct, frozen=True, array_like=True):
    """A recipe whose jobs cannot be read. `since`: the first failed try; `read`: up to where it was read then."""

    since: float
    read: float


UNREAD: msgspec.json.Decoder[dict[str, UnreadRecipe]] = msgspec.json.Decoder(dict[str, UnreadRecipe])


def marks_key(scope: str) -> str:
    """Return the name of the checkpoint with the marks of a scope's recipes."""
    return f"marks/{scope}"


def unread_key(scope: str) -> str:
    """Return the name of the checkpoint with a scope's unreadable recipes."""
    return f"unread/{scope}"


def decode_checkpoint(text: str, decoder: msgspec.json.Decoder[dict[str, Kept]]) -> dict[str, Kept]:
    """Return what a checkpoint keeps of a scope's recipes by ID; nothing if it is unreadable."""
    try:
        return decoder.decode(text) if text else {}
    except msgspec.DecodeError:
        return {}


def encode_checkpoint(kept: Mapping[str, Kept]) -> str:
    """Return the checkpoint, "" if it keeps nothing."""
    return msgspec.json.encode(kept).decode() if kept else ""


def has_changed(mark: ReadMark, recipe: Recipe) -> bool:
    """Return whether jobs may have started or ended since; always for a recipe without counts and times."""
    shown = (recipe.succeeded, recipe.failed, recipe.last_run)
    return shown != (mark.succeeded, mark.failed, mark.last_run) or shown == (None, None, "")


def needs_read(mark: ReadMark | None, recipe: Recipe) -> bool:
    """Return whether this poll reads the recipe's jobs, apart from open ones."""
    return mark is None or has_changed(mark, recipe) or unfinished(mark)


def count_missing(mark: ReadMark | None, recipe: Recipe) -> int | None:
    """Return the number of completed jobs to find, negative if more were found than counted.

    None if the counts do not show it: they are absent, or have fallen.
    """
    if mark is None:
        return None
    pairs = ((mark.succeeded, recipe.succeeded), (mark.failed, recipe.failed))
    if any(before is None or now is None or now < before for before, now in pairs):
        return None
    rise = sum((now or 0) - (before or 0) for before, now in pairs)
    return mark.missing - mark.surplus + rise


class SearchTarget(msgspec.Struct, frozen=True, kw_only=True):
    """When a search ends.

    Attributes:
        missing: The number of completed jobs to find; None if unknown.
        floor: Jobs that started earlier are not read.
        baseline: For a recipe that is read for the first time, the time up to which completed runs do not count.
        deep: Whether to search on through known jobs down to the floor, as the search before did not find all.
    """

    missing: int | None
    floor: float
    baseline: float | None = None
    deep: bool = False


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs, newest first.

    `unseen`: IDs that are neither in the state nor on an earlier page. `repeated`: earlier pages have shown all of it.
    """

    rows: tuple[WorkatoJob, ...]
    unseen: frozenset[str]
    repeated: bool = False

    @property
    def oldest(self) -> float:
        """The earliest start on it; infinite if there is none."""
        return min((row.started for row in self.rows if row.started is not None), default=float("inf"))


def is_last(page: JobPage, target: SearchTarget, *, found: int, completed: Collection[str]) -> bool:
    """Return whether the search ends with this page, after which `found` completed jobs were found in total.

    `completed`: the IDs of the page's completed jobs. A short page proves nothing.
    """
    if not page.rows or page.repeated:
        return True
    if page.oldest < target.floor:
        return True
    if not page.unseen:
        return not target.deep
    if target.baseline is not None and _all_older(page, target.baseline, completed):
        return True
    # If all missing jobs are found, the page must also show a known one: below an unseen job another may be open.
    return target.missing is not None and found >= target.missing and len(page.unseen) < len(page.rows)


def _all_older(page: JobPage, baseline: float, completed: Collection[str]) -> bool:
    return all(row.job_id in completed and row.completed is not None and row.completed < baseline for row in page.rows)


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search.

    Attributes:
        completed: Newly found completed jobs, without those that ended before the baseline.
        recent: Jobs that ended so recently that they may not be in the counts yet.
        unread_offsets: IDs of jobs after which it has not read on.
        beyond: Whether it has read past the floor: jobs not found are lost.
    """

    completed: int
    recent: int = 0
    unread_offsets: tuple[str, ...] = ()
    beyond: bool = False


def mark_after(
    recipe: Recipe, mark: ReadMark | None, target: SearchTarget, result: SearchResult
) -> tuple[ReadMark, bool]:
    """Return the mark after a search, and whether the search for missing jobs has ended without finding them."""
    missing = max(0, (target.missing or 0) - result.completed)
    tries = (mark.tries if mark else 0) + (not result.unread_offsets) if missing else 0
    lost = tries > MAX_TRIES or (missing > 0 and not result.unread_offsets and result.beyond)
    surplus = max(0, result.completed - (target.missing or 0))
    new = ReadMark(
        succeeded=recipe.succeeded,
        failed=recipe.failed,
        last_run=recipe.last_run,
        missing=0 if lost else missing,
        surplus=result.recent if target.missing is None else min(result.recent, surplus),
        tries=0 if lost else tries,
        unread_offsets=result.unread_offsets,
    )
    return new, lost


def unfinished(mark: ReadMark | None) -> bool:
    """Return whether jobs are missing or pages unread."""
    return mark is not None and (mark.missing > 0 or bool(mark.unread_offsets))


def is_deep(mark: ReadMark | None) -> bool:
    """Return whether the next search continues through known jobs."""
    return mark is not None and mark.tries > 0
