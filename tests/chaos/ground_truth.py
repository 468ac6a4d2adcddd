"""What an exporter must show of one vendor's world, as minimum and maximum where more than one value is right."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from exporter.model import FAILING, Result
from exporter.simulators.world import SimRun
from tests.chaos.renamed_job import RENAMED_JOB_ID, RenamedJob
from tests.chaos.worlds import DenseWorld
from tests.contract.harness import NOW
from tests.e2e.vendor_traits import traits_of

Key = tuple[str, ...]
"""Values of the labels that identify a count."""

Range = tuple[float, float]
"""Two times."""

FIRST_PAGE = 100
"""Runs on a page of Northflank."""

TOLERANCE = 2.0
"""Seconds by which the bounds of an unobserved range may differ from the truth."""

EXPIRY_TOLERANCE = 3600.0
"""Seconds by which the expiry of a run may differ from `max_run_age`: only polls expire runs."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A completed run. `may_be_missed`: it need not be counted, because the API may never have shown its completion."""

    end: float
    result: Result
    run: SimRun
    may_be_missed: bool = False


class JobTruth:
    """All runs of one job.

    Attributes:
        completed: Its completed runs, by their end.
        ends: Their ends.
        never_completed: Runs that expire as `unknown` after `max_run_age`.
        unreadable: Completed runs that may be counted with their result, as `unknown`, or not at all.
    """

    def __init__(self, vendor: str, runs: Sequence[SimRun], max_run_age: float) -> None:
        traits = traits_of(vendor)
        latest = {run.run_id: run.created for run in runs}
        listed_since = oldest_listed_start(runs) if vendor == "northflank" else float("-inf")
        self.completed = sorted(
            (
                Completion(
                    end=run.end,
                    result=traits.results.get(run.result, run.result),
                    run=run,
                    may_be_missed=latest[run.run_id] != run.created or run.start < listed_since,
                )
                for run in runs
                if run.end is not None and run.result is not None
            ),
            key=lambda completion: completion.end,
        )
        self.never_completed = [run for run in runs if run.end is None]
        self.unreadable: list[SimRun] = []
        self.ends = [completion.end for completion in self.completed]
        self._inactive = sorted([*self.ends, *(run.start + max_run_age for run in self.never_completed)])
        self._created = sorted(run.created for run in runs)

    def mark_unreadable(self, run_id: str) -> None:
        """Record that a run cannot be read by its ID from now on."""
        for place, completion in enumerate(self.completed):
            if completion.run.run_id == run_id:
                self.completed[place] = msgspec.structs.replace(completion, may_be_missed=True)
                self.unreadable.append(completion.run)

    def active_between(self, since: float, until: float) -> tuple[int, int]:
        """Return the minimum and maximum number of active runs in a range."""
        most = bisect_right(self._created, until) - bisect_right(self._inactive, since)
        least = bisect_right(self._created, since) - bisect_right(self._inactive, until)
        return max(0, least), most

    def completed_by(self, timestamp: float) -> int:
        """Return the number of runs that had completed at a time."""
        return bisect_right(self.ends, timestamp)

    def streaks(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[int, int]:
        """Return the minimum and maximum number of consecutive failures in a range."""
        low, high = self.completed_by(since), self.completed_by(until)
        values = [
            self._streak(number, unobserved, all_counted=all_counted)
            for number in range(low, high + 1)
            for all_counted in (False, True)
        ]
        return min(values), max(values)

    def _streak(self, number: int, unobserved: Sequence[Range], *, all_counted: bool) -> int:
        """Return the streak after a number of completed runs.

        `all_counted`: whether those that may be missed are counted too.
        """
        failures = 0
        for place in range(number - 1, -1, -1):
            completion = self.completed[place]
            if all_counted or is_sure(completion, unobserved):
                if completion.result is Result.SUCCESS:
                    break
                failures += completion.result in FAILING
        return failures


def oldest_listed_start(runs: Sequence[SimRun]) -> float:
    """Return the start of the oldest run on Northflank's first page of a job at the first poll.

    If all runs of that page have completed, the exporter reads no further, and does not know older active runs.
    """
    starts = sorted(run.start for run in runs if run.start <= NOW)
    return starts[-FIRST_PAGE] if len(starts) > FIRST_PAGE else float("-inf")


def is_sure(completion: Completion, unobserved: Sequence[Range]) -> bool:
    """Return whether a completed run must be counted."""
    return not completion.may_be_missed and not overlaps(completion.run, unobserved)


def overlaps(run: SimRun, ranges: Sequence[Range]) -> bool:
    """Return whether a run existed and had not completed at some time in these ranges."""
    end = float("inf") if run.end is None else run.end
    return any(run.created <= until + TOLERANCE and end >= since - TOLERANCE for since, until in ranges)


class GroundTruth:
    """What the exporter must show of one vendor.

    Attributes:
        jobs: Its jobs by project and name, without the renamed job.
        renamed: The renamed job; None if the world has none.
        jobs_with_steps: Keys of the jobs whose runs have steps.
    """

    def __init__(self, vendor: str, world: DenseWorld, max_run_age: float) -> None:
        self._vendor = vendor
        self._max_run_age = max_run_age
        runs = {job.job_id: list[SimRun]() for job in world.jobs()}
        for run in world.all:
            runs[run.job_id].append(run)
        self.jobs = {
            (job.project, job.name): JobTruth(vendor, runs[job.job_id], max_run_age)
            for job in world.jobs()
            if job.job_id != RENAMED_JOB_ID
        }
        self.renamed = RenamedJob(runs[RENAMED_JOB_ID], NOW) if RENAMED_JOB_ID in runs else None
        self.jobs_with_steps = {
            key for key, job in self.jobs.items() if any(completion.run.steps for completion in job.completed)
        }

    def min_completed(self, since: float, until: float, unobserved: Sequence[Range]) -> int:
        """Return how many runs that completed in a range must be counted."""
        return sum(
            is_sure(completion, unobserved)
            for job in self.jobs.values()
            for completion in job.completed[job.completed_by(since) : job.completed_by(until)]
        )

    def max_completed(self, since: float, until: float) -> int:
        """Return how many runs that completed or expired in a range may be counted."""
        completed = sum(job.completed_by(until) - job.completed_by(since) for job in self.jobs.values())
        return completed + sum(
            run.start + self._max_run_age <= until
            for job in self.jobs.values()
            for run in [*job.never_completed, *job.unreadable]
        )

    def counts(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[Counter[Key], Counter[Key]]:
        """Return the minimum and maximum count of runs by project, job and result."""
        minimum: Counter[Key] = Counter()
        maximum: Counter[Key] = Counter()
        for (project, name), job in self.jobs.items():
            for completion in job.completed[job.completed_by(since) : job.completed_by(until)]:
                key = project, name, str(completion.result)
                maximum[key] += 1
                minimum[key] += is_sure(completion, unobserved)
            maximum[project, name, "unknown"] += len(job.unreadable)
            for run in job.never_completed:
                self._expired(run, (project, name, "unknown"), (since, until, unobserved), minimum, maximum)
        return minimum, maximum

    def _expired(
        self,
        run: SimRun,
        key: Key,
        period: tuple[float, float, Sequence[Range]],
        minimum: Counter[Key],
        maximum: Counter[Key],
    ) -> None:
        """Count a run that never completes. It expires, unless it was older than `max_run_age` at the baseline."""
        since, until, unobserved = period
        expired = run.start + self._max_run_age
        if since - EXPIRY_TOLERANCE < expired < until:
            maximum[key] += 1
        sure = since + EXPIRY_TOLERANCE < expired < until - EXPIRY_TOLERANCE and run.created > since
        minimum[key] += sure and not any(low - TOLERANCE <= run.created <= high + TOLERANCE for low, high in unobserved)

    def steps(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[Counter[Key], Counter[Key]]:
        """Return the minimum and maximum count of steps by project, job, step and result."""
        traits = traits_of(self._vendor)
        minimum: Counter[Key] = Counter()
        maximum: Counter[Key] = Counter()
        for project, name in self.jobs_with_steps:
            job = self.jobs[project, name]
            for completion in job.completed[job.completed_by(since) : job.completed_by(until)]:
                for number, step in enumerate(completion.run.steps):
                    if step_name := traits.step_name(number, step):
                        key = project, name, step_name, str(step.result)
                        maximum[key] += 1
                        minimum[key] += is_sure(completion, unobserved)
        return minimum, maximum


def merge_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Return the ranges in order, and overlapping ranges as one."""
    merged: list[Range] = []
    for since, until in sorted(ranges):
        if merged and since <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(until, merged[-1][1])
        else:
            merged.append((since, until))
    return merged


def total_seconds(ranges: Iterable[Range]) -> float:
    """Return the total length of ranges."""
    return sum(until - since for since, until in ranges)
