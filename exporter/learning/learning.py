"""What has been learned of each job, kept until its runs have changed: the publisher asks for it with every page."""

from collections.abc import Callable

import msgspec

from exporter.counting.records import JobState
from exporter.errors import StateError
from exporter.learning.cadence import DAY, SPAN
from exporter.learning.learned import NOTHING, Learned, learn
from exporter.ledger.ledger import Ledger
from exporter.model import PastRun

LATEST = 500
"""Runs of a job that are looked at: three weeks of one that runs hourly."""

PULSE_REACH, PULSE_GRAIN = 8 * DAY, 900.0
"""How far back the ends of a busier job's runs are looked at, and how finely, in seconds."""

SOONEST = 600.0
"""Seconds for which what was learned holds although another run has ended: a busy job has no news in each."""

LONGEST = 21_600.0
"""Seconds after which it is learned anew although no other run has ended: old runs may have been forgotten."""


class _Kept(msgspec.Struct, frozen=True):
    """What was learned, when, and which run had ended last then."""

    learned: Learned
    at: float
    last_run: str


class Learning:
    """Reads the past of jobs in the state. To be used under the ledger's lock.

    Args:
        ledger: Where the runs are.
        monotonic: A clock that never jumps, in seconds.
    """

    def __init__(self, ledger: Ledger, monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._monotonic = monotonic
        self._kept: dict[int, _Kept] = {}

    def of(self, job: JobState) -> Learned:
        """Return what is known of a job's habits. While the state cannot be read, what was known before."""
        jobs = self._ledger.committed.jobs
        if len(self._kept) > len(jobs):  # some are deleted
            self._kept = {key: kept for key, kept in self._kept.items() if key in jobs}
        kept = self._kept.get(job.key)
        if job.last_run is None or not self.is_due(job):
            return kept.learned if kept else NOTHING
        try:
            learned = self._read(job.key)
        except StateError:
            return kept.learned if kept else NOTHING
        self._kept[job.key] = _Kept(learned, self._monotonic(), job.last_run.run_id)
        return learned

    def is_due(self, job: JobState) -> bool:
        """Whether the next question about a job takes a look at its past."""
        kept = self._kept.get(job.key)
        if job.last_run is None:
            return False
        return kept is None or _is_stale(kept, job.last_run.run_id, self._monotonic())

    def _read(self, job: int) -> Learned:
        store = self._ledger.store()
        runs = store.past(job, LATEST)
        return learn(runs, store.activity(job, _latest(runs) - PULSE_REACH, PULSE_GRAIN) if _is_busy(runs) else ())


def _is_stale(kept: _Kept, last_run: str, now: float) -> bool:
    return now - kept.at >= (LONGEST if kept.last_run == last_run else SOONEST)


def _is_busy(runs: list[PastRun]) -> bool:
    """Whether these are not all of the last week."""
    ends = [run.end for run in runs if run.end is not None]
    return len(runs) == LATEST and bool(ends) and max(ends) - min(ends) < SPAN


def _latest(runs: list[PastRun]) -> float:
    return max((run.end for run in runs if run.end is not None), default=0.0)
