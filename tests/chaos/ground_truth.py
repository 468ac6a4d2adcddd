"""What is true of one vendor's world, ready to be compared: endings in order, how many are open, and streaks."""

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
from tests.e2e.vendors import vendor

Key = tuple[str, ...]
Range = tuple[float, float]

FIRST_PAGE = 100


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """An ending. `doubtful`: the API may never have shown it, as the run came back to life before."""

    end: float
    result: Result
    run: SimRun
    doubtful: bool = False


class JobTruth:
    """One job's runs. A run that never ends is given up after `max_run_age`, which ends it as `unknown`."""

    def __init__(self, word: str, runs: Sequence[SimRun], max_run_age: float) -> None:
        told = vendor(word)
        latest = {run.run_id: run.created for run in runs}
        deep = first_page_end(runs) if word == "northflank" else float("-inf")
        self.ended = sorted(
            (
                Ending(
                    end=run.end,
                    result=told.results.get(run.result, run.result),
                    run=run,
                    doubtful=latest[run.run_id] != run.created or run.start < deep,
                )
                for run in runs
                if run.end is not None and run.result is not None
            ),
            key=lambda ending: ending.end,
        )
        self.stuck = [run for run in runs if run.end is None]
        self.doubted: list[SimRun] = []
        self.ends = [ending.end for ending in self.ended]
        self._over = sorted([*self.ends, *(run.start + max_run_age for run in self.stuck)])
        self._created = sorted(run.created for run in runs)

    def doubt(self, run_id: str) -> None:
        """A run could not be asked for while it ended: it may have been counted as `unknown`, or not at all."""
        for place, ending in enumerate(self.ended):
            if ending.run.run_id == run_id:
                self.ended[place] = msgspec.structs.replace(ending, doubtful=True)
                self.doubted.append(ending.run)

    def open_between(self, since: float, until: float) -> tuple[int, int]:
        """Bounds of how many runs were open at some instant of this stretch."""
        most = bisect_right(self._created, until) - bisect_right(self._over, since)
        least = bisect_right(self._created, since) - bisect_right(self._over, until)
        return max(0, least), most

    def place(self, timestamp: float) -> int:
        """How many endings there were up to an instant."""
        return bisect_right(self.ends, timestamp)

    def streaks(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[int, int]:
        """Bounds of the failing runs in a row as of some instant of this stretch."""
        low, high = self.place(since), self.place(until)
        values = [
            self._streak(cut, unobserved, all_of_them=all_of_them)
            for cut in range(low, high + 1)
            for all_of_them in (False, True)
        ]
        return min(values), max(values)

    def _streak(self, cut: int, unobserved: Sequence[Range], *, all_of_them: bool) -> int:
        """How many of the first so many endings failed since the last that went well; the others are neutral."""
        failing = 0
        for place in range(cut - 1, -1, -1):
            ending = self.ended[place]
            if all_of_them or is_sure(ending, unobserved):
                if ending.result is Result.SUCCESS:
                    break
                failing += ending.result in FAILING
        return failing


def first_page_end(runs: Sequence[SimRun]) -> float:
    """Before which instant the runs started that Northflank's first page of a job did not show at the first poll.

    If all on that page have ended, the exporter looks no deeper, and does not know of older ones that are open.
    """
    starts = sorted(run.start for run in runs if run.start <= NOW)
    return starts[-FIRST_PAGE] if len(starts) > FIRST_PAGE else float("-inf")


def is_sure(ending: Ending, unobserved: Sequence[Range]) -> bool:
    """Whether an ending must be counted: no part of its run's life lies in a range that was never read."""
    return not ending.doubtful and not touches(ending.run, unobserved)


def touches(run: SimRun, ranges: Sequence[Range], slack: float = 2.0) -> bool:
    """Whether a part of a run's life lies in one of these ranges."""
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
        self.stepped = {key for key, job in self.jobs.items() if any(ending.run.steps for ending in job.ended)}

    def sure(self, since: float, until: float, unobserved: Sequence[Range]) -> int:
        """How many endings of this stretch must be counted."""
        return sum(
            is_sure(ending, unobserved)
            for job in self.jobs.values()
            for ending in job.ended[job.place(since) : job.place(until)]
        )

    def most(self, since: float, until: float) -> int:
        """How many may be counted at the most."""
        ended = sum(job.place(until) - job.place(since) for job in self.jobs.values())
        return ended + sum(
            run.start + self.max_run_age <= until for job in self.jobs.values() for run in [*job.stuck, *job.doubted]
        )

    def counts(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[Counter[Key], Counter[Key]]:
        """How often each series of endings must, and how often it may, have been counted."""
        must: Counter[Key] = Counter()
        may: Counter[Key] = Counter()
        for (project, name), job in self.jobs.items():
            for ending in job.ended[job.place(since) : job.place(until)]:
                key = project, name, str(ending.result)
                may[key] += 1
                must[key] += is_sure(ending, unobserved)
            may[project, name, "unknown"] += len(job.doubted)
            for run in job.stuck:
                self._given_up(run, (project, name, "unknown"), (since, until, unobserved), must, may)
        return must, may

    def _given_up(
        self,
        run: SimRun,
        key: Key,
        stretch: tuple[float, float, Sequence[Range]],
        must: Counter[Key],
        may: Counter[Key],
    ) -> None:
        """A run that never ends: given up at its age, unless it was too old from the first."""
        since, until, unobserved = stretch
        given_up = run.start + self.max_run_age
        if since - 3600 < given_up < until:
            may[key] += 1
        sure = since + 3600 < given_up < until - 3600 and run.created > since
        must[key] += sure and not any(low - 2 <= run.created <= high + 2 for low, high in unobserved)

    def steps(self, since: float, until: float, unobserved: Sequence[Range]) -> tuple[Counter[Key], Counter[Key]]:
        """The same of steps, by project, job, name of the step and result."""
        told = vendor(self.word)
        must: Counter[Key] = Counter()
        may: Counter[Key] = Counter()
        for project, name in self.stepped:
            job = self.jobs[project, name]
            for ending in job.ended[job.place(since) : job.place(until)]:
                for number, step in enumerate(ending.run.steps):
                    if shown := told.step(number, step):
                        key = project, name, shown, str(step.result)
                        may[key] += 1
                        must[key] += is_sure(ending, unobserved)
        return must, may


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same ranges in order, those that touch made one."""
    found: list[Range] = []
    for since, until in sorted(ranges):
        if found and since <= found[-1][1]:
            found[-1] = found[-1][0], max(until, found[-1][1])
        else:
            found.append((since, until))
    return found


def seconds(ranges: Iterable[Range]) -> float:
    """How long they are together."""
    return sum(itertools.starmap(lambda since, until: until - since, ranges))
