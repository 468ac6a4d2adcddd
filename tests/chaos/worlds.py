"""What truly happens in a scenario: weeks of runs of one vendor, decided before the first poll."""

import random
from collections.abc import Iterator, Sequence

import msgspec

from exporter.model import Result
from exporter.simulators.script import RunScript, make_run
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.world import SimJob, SimRun
from tests.chaos.renamed import renamed_job, runs_of
from tests.contract.harness import ABILITIES, DAY, HOUR

PROJECTS = ("prod", "qa")
STEPS = ("load", "held", "__other__")
"""Two of them are words of the exporter, which must have no meaning as a name."""

DURATIONS = ((0.7, 2, 180), (0.2, 180, 2400), (0.08, 2400, 10 * HOUR), (0.02, 25 * HOUR, 40 * HOUR))
"""Shares of the runs, and their shortest and longest durations in seconds."""

MOST_LONG = 5000
"""Runs above which the number of long runs no longer grows: each is requested by its ID."""

WELL = 0.8
"""The share of runs that succeed; in larger worlds half as many fail, as the steps of each cost a request."""

STEPPED, MOST_STEPPED = 0.05, 150
"""The share of runs of jobs with steps, and their highest number: each costs a request."""

STUCK, REPLAYED = 0.001, 0.01
"""The share of runs that never complete; and of failed runs that are replayed, where a vendor reopens IDs."""


RENAMES = ("northflank", "strait", "workato")
"""Vendors whose jobs have an ID, so that their names can change."""


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How much happens: runs of one vendor until `end`, some of them before the first poll at `begin`.

    `renames`: whether there is another job, whose name changes.
    """

    begin: float
    end: float
    runs: int
    jobs: int = 2
    renames: bool = False


class DenseWorld:
    """Runs that are all known at the start, with an index per job for a hundred thousand lookups."""

    def __init__(self, jobs: Sequence[SimJob], runs: Sequence[SimRun]) -> None:
        self.all = tuple(sorted(runs, key=lambda run: run.created))
        self._jobs = tuple(jobs)
        self._whole = ScriptedWorld()
        self._whole.add(self.all)
        self._parts = {job.job_id: ScriptedWorld() for job in jobs}
        for job_id, part in self._parts.items():
            part.add(run for run in self.all if run.job_id == job_id)

    def jobs(self) -> Sequence[SimJob]:
        return self._jobs

    def rename(self, job_id: str, name: str) -> None:
        """Give a job another name; its runs stay its runs."""
        self._jobs = tuple(
            msgspec.structs.replace(job, name=name) if job.job_id == job_id else job for job in self._jobs
        )

    def runs(self, since: float, until: float, job_id: str | None = None) -> Sequence[SimRun]:
        return (self._whole if job_id is None else self._parts[job_id]).runs(since, until)

    def find(self, run_id: str, now: float) -> SimRun | None:
        return self._whole.find(run_id, now)


def drawn(vendor: str, seed: str, size: Size) -> DenseWorld:
    """Return the world of a vendor. All times are whole seconds, as some vendors have no others."""
    dice = random.Random(f"{seed}/{vendor}")
    jobs = [
        SimJob(job_id=f"{project}/job-{number}", name=f"job-{number}", project=project)
        for number in range(size.jobs)
        for project in PROJECTS
    ]
    drawing = Drawing(vendor, dice, size)
    runs = [run for place, job in enumerate(jobs) for run in drawing.job(place, job)]
    if size.renames and vendor in RENAMES:
        jobs.append(renamed_job())
        runs += runs_of(f"{seed}/{vendor}", size.begin, size.end)
    return DenseWorld(jobs, runs)


class Drawing:
    """Draws the runs of one vendor's jobs."""

    def __init__(self, vendor: str, dice: random.Random, size: Size) -> None:
        self._dice = dice
        self._size = size
        self._results = sorted(ABILITIES[vendor].results - {Result.SUCCESS})
        self._reopens = vendor == "strait"
        few = min(1.0, MOST_LONG / size.runs)
        self._shares = [share * (few if most > HOUR else 1.0) for share, _, most in DURATIONS]
        self._well = WELL if few == 1 else (1 + WELL) / 2
        self._numbers = 0
        self._ends: set[float] = set()

    def job(self, place: int, job: SimJob) -> Iterator[SimRun]:
        """Return the weights of jobs: the first has steps and few runs, each next one is busier."""
        self._ends = set()
        stepped = place == 0
        few = min(STEPPED, MOST_STEPPED / self._size.runs)
        share = few if stepped else (1 - few) * 2 * place / (place_sum(self._size.jobs) or 1)
        number = max(1, round(self._size.runs * share))
        since = self._size.begin - 20 * HOUR
        last = self._size.end - 7 * HOUR
        for start in sorted(self._dice.randint(int(since), int(last)) for _ in range(number)):
            run = self._run(job, start, stepped=stepped)
            yield run
            failed = run.result is Result.FAILURE and run.end is not None and run.end + DAY < last
            if self._reopens and not stepped and failed and self._dice.random() < REPLAYED:
                yield self._run(job, int(run.end or 0) + self._dice.randint(10, 7200), stepped=False, again=run.run_id)

    def _run(self, job: SimJob, created: int, *, stepped: bool, again: str = "") -> SimRun:
        dice = self._dice
        self._numbers += 1
        well = dice.random() < self._well or not self._results
        stuck = not again and dice.random() < STUCK
        queue = 0 if again else dice.choice((0, 0, 5, 40))
        latest = self._size.end - HOUR
        result = None if stuck else Result.SUCCESS if well else dice.choice(self._results)
        dead = self._reopens and result is Result.FAILURE and not stepped and self._numbers % 2
        end = self._free_end(min(created + queue + self._length(), max(latest, created + queue + 60)))
        script = RunScript(
            job=job.name,
            project=job.project,
            job_id=job.job_id,
            run_id=again,
            created=float(created),
            queue=float(queue),
            end=None if stuck else end,
            duration=None if stuck else end - created - queue,
            result=result,
            steps=STEPS[: dice.randint(1, 3)] if stepped else (),
            attempts=2 if dead else 1,
        )
        return make_run(script, 0.0, self._numbers)

    def _length(self) -> int:
        (_, least, most) = self._dice.choices(DURATIONS, self._shares)[0]
        return self._dice.randint(int(least), int(most))

    def _free_end(self, end: float) -> float:
        """Make the ends of a job's runs distinct, so that there is one last run."""
        while end in self._ends:
            end += 1
        self._ends.add(end)
        return end


def place_sum(jobs: int) -> int:
    """Return twice the sum of the places of all jobs except the first."""
    number = jobs * len(PROJECTS)
    return number * (number - 1)
