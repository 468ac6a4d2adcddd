"""A world in which only described runs happen."""

import bisect
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from exporter.model import Result
from exporter.simulators.script import RunScript, make_run
from exporter.simulators.world import SimJob, SimRun, overlaps


class ScriptedWorld:
    """Runs that tests or `POST /-/runs` add. They may be in the past and in the future. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._lives: dict[tuple[str, float], SimRun] = {}
        self._jobs: dict[str, SimJob] = {}
        self._numbers = itertools.count()
        self._index: _Index | None = None

    def add_script(self, script: RunScript) -> SimRun:
        """Add the run that a script describes."""
        run = make_run(script, self._clock(), next(self._numbers))
        self.add([run])
        return run

    def run(self, job: str, **fields: object) -> SimRun:
        """Add a run: `run("daily", start=1000.0, duration=60.0, result="failure", steps=["load", "model"])`."""
        return self.add_script(msgspec.convert({"job": job, **fields}, RunScript))

    def add(self, runs: Iterable[SimRun]) -> None:
        """Add runs. A run with a known ID and creation time replaces the known run."""
        with self._lock:
            for run in runs:
                self._lives[run.run_id, run.created] = run
                job = SimJob(job_id=run.job_id, name=run.job_name, project=run.project)
                self._jobs.setdefault(run.job_id, job)
            self._index = None

    def add_job(self, job: SimJob) -> None:
        """Add a job without runs, or replace the description of a job."""
        with self._lock:
            self._jobs[job.job_id] = job

    def end(self, run_id: str, at: float, result: Result = Result.SUCCESS) -> SimRun:
        """Complete an active run at a time, together with its active steps. Raises KeyError for an unknown ID."""
        with self._lock:
            run = max((life for life in self._lives.values() if life.run_id == run_id), key=lambda life: life.created)
            steps = tuple(
                step
                if step.end is not None
                else msgspec.structs.replace(step, end=at, result=_closed(step.start, result))
                for step in run.steps
            )
            ended = msgspec.structs.replace(run, end=at, result=result, steps=steps)
            self.add([ended])
            return ended

    def jobs(self) -> Sequence[SimJob]:
        """Return all jobs, in the order in which they were added."""
        with self._lock:
            return tuple(self._jobs.values())

    def runs(self, since: float, until: float, job_id: str | None = None) -> Sequence[SimRun]:
        """Return the runs that overlap [since, until), oldest creation first."""
        found = self._indexed().overlapping(since, until)
        return found if job_id is None else [run for run in found if run.job_id == job_id]

    def find(self, run_id: str, now: float) -> SimRun | None:
        """Return the run with this ID. If it was reopened, return the latest life created before `now`."""
        lives = self._indexed().by_id.get(run_id, ())
        return next((life for life in reversed(lives) if life.created <= now), None)

    def _indexed(self) -> "_Index":
        with self._lock:
            if self._index is None:
                self._index = _Index(self._lives.values())
            return self._index


class _Index:
    """Runs by creation, and the latest end up to each run, so that a bisection finds the runs of a range."""

    def __init__(self, runs: Iterable[SimRun]) -> None:
        ordered = sorted(runs, key=lambda run: run.created)
        self.by_id: dict[str, list[SimRun]] = {}
        for run in ordered:
            self.by_id.setdefault(run.run_id, []).append(run)
        self._endless = [run for run in ordered if run.end is None]
        self._ended = [run for run in ordered if run.end is not None]
        self._created = [run.created for run in self._ended]
        self._ends = list(itertools.accumulate((run.end or 0.0 for run in self._ended), max))

    def overlapping(self, since: float, until: float) -> list[SimRun]:
        low = bisect.bisect_left(self._ends, since)
        high = bisect.bisect_left(self._created, until)
        found = [run for run in self._ended[low:high] if run.end is not None and run.end >= since]
        endless = [run for run in self._endless if overlaps(run, since, until)]
        return sorted([*found, *endless], key=lambda run: run.created) if endless else found


def _closed(start: float | None, result: Result) -> Result:
    return Result.SKIP if start is None else result
