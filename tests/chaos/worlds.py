"""Generates the world of a vendor: all jobs and runs of a scenario, before the first poll."""

import random
from collections.abc import Iterator, Sequence

import msgspec

from exporter.model import Result
from exporter.simulators.script import RunScript, make_run
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.world import SimJob, SimRun
from tests.chaos.renamed_job import generate_runs, renamed_job
from tests.contract.harness import ABILITIES, DAY, HOUR

PROJECTS = ("prod", "qa")
STEPS = ("load", "held", "__other__")
"""Names of steps. The exporter uses two of these words itself. As names they must mean nothing special."""

DURATIONS = ((0.7, 2, 180), (0.2, 180, 2400), (0.08, 2400, 10 * HOUR), (0.02, 25 * HOUR, 40 * HOUR))
"""Fraction of the runs, and their shortest and longest duration in seconds."""

MOST_RUNS_WITH_MORE_LONG = 5000
"""Runs above which the number of long runs no longer grows, because each long run is requested by its ID."""

SUCCESSFUL = 0.8
"""Fraction of runs that succeed. In larger worlds half as many fail, because steps of failed runs cost requests."""

WITH_STEPS, MOST_WITH_STEPS = 0.05, 150
"""Fraction and maximum number of runs with steps. The steps of each cost a request."""

NEVER_COMPLETED, REPLAYED = 0.001, 0.01
"""Fraction of runs that never complete, and of failed runs that are replayed if the vendor replays runs."""

RENAMES = ("northflank", "strait", "workato")
"""Vendors whose jobs have IDs, so that jobs can be renamed."""


class WorldSize(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a world.

    Attributes:
        begin: When the first poll starts. Some runs start before it.
        end: When the scenario ends.
        runs: Number of runs, without replays.
        jobs: Number of jobs per project.
        renames: Whether there is another job, which is renamed.
    """

    begin: float
    end: float
    runs: int
    jobs: int = 2
    renames: bool = False


class DenseWorld:
    """A world to which no run is added. It has an index of the runs per job, for fast lookups."""

    def __init__(self, jobs: Sequence[SimJob], runs: Sequence[SimRun]) -> None:
        self.all = tuple(sorted(runs, key=lambda run: run.created))
        self._jobs = tuple(jobs)
        self._runs = ScriptedWorld()
        self._runs.add(self.all)
        self._runs_by_job = {job.job_id: ScriptedWorld() for job in jobs}
        for job_id, runs_of_job in self._runs_by_job.items():
            runs_of_job.add(run for run in self.all if run.job_id == job_id)

    def jobs(self) -> Sequence[SimJob]:
        return self._jobs

    def rename(self, job_id: str, name: str) -> None:
        """Rename a job. It keeps its runs."""
        self._jobs = tuple(
            msgspec.structs.replace(job, name=name) if job.job_id == job_id else job for job in self._jobs
        )

    def runs(self, since: float, until: float, job_id: str | None = None) -> Sequence[SimRun]:
        return (self._runs if job_id is None else self._runs_by_job[job_id]).runs(since, until)

    def find(self, run_id: str, now: float) -> SimRun | None:
        return self._runs.find(run_id, now)


def generate_world(vendor: str, seed: str, size: WorldSize) -> DenseWorld:
    """Return the world of a vendor. All times are whole seconds, because some vendors show no fractions."""
    rng = random.Random(f"{seed}/{vendor}")
    jobs = [
        SimJob(job_id=f"{project}/job-{number}", name=f"job-{number}", project=project)
        for number in range(size.jobs)
        for project in PROJECTS
    ]
    generator = WorldGenerator(vendor, rng, size)
    runs = [run for number, job in enumerate(jobs) for run in generator.runs_of_job(number, job)]
    if size.renames and vendor in RENAMES:
        jobs.append(renamed_job())
        runs += generate_runs(f"{seed}/{vendor}", size.begin, size.end)
    return DenseWorld(jobs, runs)


class WorldGenerator:
    """Generates the runs of a vendor's jobs."""

    def __init__(self, vendor: str, rng: random.Random, size: WorldSize) -> None:
        self._rng = rng
        self._size = size
        self._results = sorted(ABILITIES[vendor].results - {Result.SUCCESS})
        self._reopens = vendor == "strait"
        fewer = min(1.0, MOST_RUNS_WITH_MORE_LONG / size.runs)
        self._shares = [share * (fewer if most > HOUR else 1.0) for share, _, most in DURATIONS]
        self._successful = SUCCESSFUL if fewer == 1 else (1 + SUCCESSFUL) / 2
        self._run_number = 0
        self._ends: set[float] = set()

    def runs_of_job(self, number: int, job: SimJob) -> Iterator[SimRun]:
        """Yield the runs of the n-th job. The first job has few runs, with steps; each next job has more runs."""
        self._ends = set()
        has_steps = number == 0
        few = min(WITH_STEPS, MOST_WITH_STEPS / self._size.runs)
        share = few if has_steps else (1 - few) * 2 * number / (weight_sum(self._size.jobs) or 1)
        count = max(1, round(self._size.runs * share))
        since = self._size.begin - 20 * HOUR
        until = self._size.end - 7 * HOUR
        for start in sorted(self._rng.randint(int(since), int(until)) for _ in range(count)):
            run = self._run(job, start, has_steps=has_steps)
            yield run
            failed = run.result is Result.FAILURE and run.end is not None and run.end + DAY < until
            if self._reopens and not has_steps and failed and self._rng.random() < REPLAYED:
                yield self._run(
                    job, int(run.end or 0) + self._rng.randint(10, 7200), has_steps=False, replayed_id=run.run_id
                )

    def _run(self, job: SimJob, created: int, *, has_steps: bool, replayed_id: str = "") -> SimRun:
        rng = self._rng
        self._run_number += 1
        succeeds = rng.random() < self._successful or not self._results
        never_completes = not replayed_id and rng.random() < NEVER_COMPLETED
        queue = 0 if replayed_id else rng.choice((0, 0, 5, 40))
        latest = self._size.end - HOUR
        result = None if never_completes else Result.SUCCESS if succeeds else rng.choice(self._results)
        dead_letter = self._reopens and result is Result.FAILURE and not has_steps and self._run_number % 2
        end = self._unused_end(min(created + queue + self._duration(), max(latest, created + queue + 60)))
        script = RunScript(
            job=job.name,
            project=job.project,
            job_id=job.job_id,
            run_id=replayed_id,
            created=float(created),
            queue=float(queue),
            end=None if never_completes else end,
            duration=None if never_completes else end - created - queue,
            result=result,
            steps=STEPS[: rng.randint(1, 3)] if has_steps else (),
            attempts=2 if dead_letter else 1,
        )
        return make_run(script, 0.0, self._run_number)

    def _duration(self) -> int:
        (_, least, most) = self._rng.choices(DURATIONS, self._shares)[0]
        return self._rng.randint(int(least), int(most))

    def _unused_end(self, end: float) -> float:
        """Return the first end from a time on that no other run of the job has, so that the job has one last run."""
        while end in self._ends:
            end += 1
        self._ends.add(end)
        return end


def weight_sum(jobs: int) -> int:
    """Return twice the sum of the numbers of all jobs, which start at 0."""
    number = jobs * len(PROJECTS)
    return number * (number - 1)
