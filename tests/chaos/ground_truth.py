"""The truth of one vendor's world, ready to compare: completed runs in order, active runs, and streaks."""

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from exporter.model import FAILING, Result
from exporter.simulators.world import SimRun
from tests.chaos.renamed import JOB, RenamedJob
from tests.chaos.worlds import DenseWorld
from tests.contract.harness import NOW
from tests.e2e.vendor_traits import traits_of

Key = tuple[str, ...]
Range = tuple[float, float]

FIRST_PAGE = 100


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """A completed run. `doubtful`: the API may never have shown this completion, because the run was reopened."""

    end: float
    result: Result
    run: SimRun
    doubtful: bool = False


class JobTruth:
    """One job's runs. A run that never completes expires as `unknown` after `max_run_age`."""

    def __init__(self, word: str, runs: Sequence[SimRun], max_run_age: float) -> None:
        known = traits_of(word)
        latest = {run.run_id: run.created for run in runs}
        deep = first_page_end(runs) if word == "northflank" else float("-inf")
        self.ended = sorted(
            (
                Completion(
                    end=run.end,
                    result=known.results.get(run.result, run.result),
                    run=run,
                    doubtful=latest[run.run_id] != run.created or run.start < deep,
                )
                for run in runs
                if run.end is not None and run.result is not None
            ),
            key=lambda completion: completion.end,
        )
        self.stuck = [run for run in runs if run.end is None]
        self.doubted: list[SimRun] = []
        self.ends = [completion.end for completion in self.ended]
        self._over = sorted([*self.ends, *(run.start + max_run_age for run in self.stuck)])
        self._created = sorted(run.created for run in runs)

    def doubt(self, run_id: str) -> None:
        """Note that a run could not be read when it completed: it may be counted as `unknown`, or not at all."""
        for place, completion in enumerate(self.ended):
            if completion.run.run_id == run_id:
                self.ended[place] = msgspec.structs.replace(completion, doubtful=True)
                self.doubted.append(completion.run)

    def open_between(self, since: float, until: float) -> tuple[int, int]:
        """Return bounds of the number of active runs at some time of this range."""
        most = bisect_right(self._created, until) - bisect_right(self._over, since)
        least = bisect_right(self._created, since) - bisect_right(self._over, until)
        return max(0, least), most

    def place(self, timestamp: float) -> int:
        """Return the number of completed runs up to a time."""
        return bisect_right(self.ends, timestamp)

    def streaks(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[int, int]:
        """Return bounds of the consecutive failures at some time of this range."""
        low, high = self.place(since), self.place(until)
        values = [
            self._streak(cut, unobserved, all_of_them=all_of_them)
            for cut in range(low, high + 1)
            for all_of_them in (False, True)
        ]
        return min(values), max(values)

    def _streak(self, cut: int, unobserved: Sequence[Range], *, all_of_them: bool) -> int:
        """Return how many of the first runs failed since the last success; other results are neutral."""
        failing = 0
        for place in range(cut - 1, -1, -1):
            completion = self.ended[place]
            if all_of_them or is_sure(completion, unobserved):
                if completion.result is Result.SUCCESS:
                    break
                failing += completion.result in FAILING
        return failing


def first_page_end(runs: Sequence[SimRun]) -> float:
    """Return the time before which runs started that Northflank's first page of a job did not show at the first poll.

    If all runs of that page have completed, the exporter reads no further, and does not know older active runs.
    """
    starts = sorted(run.start for run in runs if run.start <= NOW)
    return starts[-FIRST_PAGE] if len(starts) > FIRST_PAGE else float("-inf")


def is_sure(completion: Completion, unobserved: Sequence[Range]) -> bool:
    """Return whether a completed run must be counted: no part of its life lies in an unobserved range."""
    return not completion.doubtful and not touches(completion.run, unobserved)


def touches(run: SimRun, ranges: Sequence[Range], slack: float = 2.0) -> bool:
    """Return whether a part of a run's life lies in one of these ranges."""
    end = float("inf") if run.end is None else run.end
    return any(run.created <= until + slack and end >= since - slack for since, until in ranges)


class GroundTruth:
    """All jobs of one vendor."""

    def __init__(self, word: str, world: DenseWorld, max_run_age: float) -> None:
        self.word = word
        self.max_run_age = max_run_age
        runs = {job.job_id: list[SimRun]() for job in world.jobs()}
        for run in world.all:
            runs[run.job_id].append(run)
        self.jobs = {
            (job.project, job.name): JobTruth(word, runs[job.job_id], max_run_age)
            for job in world.jobs()
            if job.job_id != JOB
        }
        self.renamed = RenamedJob(runs[JOB], NOW) if JOB in runs else None
        self.stepped = {key for key, job in self.jobs.items() if any(completion.run.steps for completion in job.ended)}

    def sure(self, since: float, until: float, unobserved: Sequence[Range]) -> int:
        """Return how many completed runs of this range must be counted."""
        return sum(
            is_sure(completion, unobserved)
            for job in self.jobs.values()
            for completion in job.ended[job.place(since) : job.place(until)]
        )

    def most(self, since: float, until: float) -> int:
        """Return how many runs may be counted at most."""
        ended = sum(job.place(until) - job.place(since) for job in self.jobs.values())
        return ended + sum(
            run.start + self.max_run_age <= until for job in self.jobs.values() for run in [*job.stuck, *job.doubted]
        )

    def counts(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[Counter[Key], Counter[Key]]:
        """Return how often each series of runs must, and how often it may, have been counted."""
        must: Counter[Key] = Counter()
        may: Counter[Key] = Counter()
        for (project, name), job in self.jobs.items():
            for completion in job.ended[job.place(since) : job.place(until)]:
                key = project, name, str(completion.result)
                may[key] += 1
                must[key] += is_sure(completion, unobserved)
            may[project, name, "unknown"] += len(job.doubted)
            for run in job.stuck:
                self._expired(run, (project, name, "unknown"), (since, until, unobserved), must, may)
        return must, may

    def _expired(
        self,
        run: SimRun,
        key: Key,
        stretch: tuple[float, float, Sequence[Range]],
        must: Counter[Key],
        may: Counter[Key],
    ) -> None:
        """Count a run that never completes. It expires, unless it was too old at the baseline."""
        since, until, unobserved = stretch
        expired = run.start + self.max_run_age
        if since - 3600 < expired < until:
            may[key] += 1
        sure = since + 3600 < expired < until - 3600 and run.created > since
        must[key] += sure and not any(low - 2 <= run.created <= high + 2 for low, high in unobserved)

    def steps(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[Counter[Key], Counter[Key]]:
        """Return the same for steps, by project, job, name of the step and result."""
        known = traits_of(self.word)
        must: Counter[Key] = Counter()
        may: Counter[Key] = Counter()
        for project, name in self.stepped:
            job = self.jobs[project, name]
            for completion in job.ended[job.place(since) : job.place(until)]:
                for number, step in enumerate(completion.run.steps):
                    if shown := known.step_name(number, step):
                        key = project, name, shown, str(step.result)
                        may[key] += 1
                        must[key] += is_sure(completion, unobserved)
        return must, may


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return the ranges in order, with those that touch merged."""
    found: list[Range] = []
    for since, until in sorted(ranges):
        if found and since <= found[-1][1]:
            found[-1] = found[-1][0], max(until, found[-1][1])
        else:
            found.append((since, until))
    return found


def seconds(ranges: Iterable[Range]) -> float:
    """Return the total length of ranges."""
    return sum(itertools.starmap(lambda since, until: until - since, ranges))
