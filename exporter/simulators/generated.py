"""A world without storage: every run is computed from a seed, its job and its number."""

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from exporter.model import Result
from exporter.simulators.script import RunScript, StepScript, make_run
from exporter.simulators.world import SimJob, SimRun, overlaps

FORGOTTEN_AFTER = 8 * 86400.0
"""Seconds after its creation for which a run that never completes is shown."""

CACHE_LENGTH = 200_000


class StepPlan(msgspec.Struct, frozen=True):
    """A step of a job: its weight in the job's duration, and the steps before it; None for the previous step."""

    name: str
    weight: float = 1.0
    dependencies: tuple[str, ...] | None = None


class JobPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a job behaves. All durations are in seconds at speed 1.

    Attributes:
        failing: Fraction of runs that fail, at a random step.
        skipping: Fraction of runs that are skipped as a whole.
        no_op: Fraction of runs that stop early and succeed.
        slow_every: Number of runs of a cycle; 0 for no cycle. The later half takes `slow_factor` times as long.
        stuck_every: One in this many runs never completes; 0 if all complete.
        queue: How long runs wait before they start.
        edit_every: Runs between two edits of the job's definition.
        until: Seconds after the birth of the world after which no run starts.
        switched_off: Whether the vendor shows the job as disabled from then on.
    """

    name: str
    project: str
    interval: float
    duration: float
    steps: tuple[StepPlan, ...] = ()
    failing: float = 0.02
    skipping: float = 0.0
    no_op: float = 0.0
    slow_every: int = 0
    slow_factor: float = 5.0
    stuck_every: int = 0
    queue: float = 2.0
    edit_every: int = 200
    until: float = math.inf
    switched_off: bool = False
    error_type: str = "dbt_error"

    @property
    def job_id(self) -> str:
        """Return the job's ID in the world."""
        return f"{self.project}/{self.name}"

    @property
    def longest(self) -> float:
        """Return the maximum seconds from the creation to the end of a run that completes."""
        return self.queue * 1.5 + self.duration * 1.5 * max(self.slow_factor if self.slow_every else 1.0, 1.0)


class GeneratedWorld:
    """An endless series of runs. Run number k of a job is created after k intervals and a random delay.

    Args:
        speed: At speed N, runs occur N times as often and take an Nth of the time.
        birth: No run is created before this time.
        id_digits: Length of the hexadecimal run IDs. A run can be computed from its ID.
        clock: Decides which jobs are switched off.
    """

    def __init__(  # noqa: PLR0913  # all but one have a default
        self,
        plans: Sequence[JobPlan],
        *,
        seed: int = 0,
        speed: float = 1.0,
        birth: float = 0.0,
        id_digits: int = 64,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._plans = tuple(plans)
        self._seed = seed
        self._speed = speed
        self._birth = birth
        self._id_digits = id_digits
        self._clock = clock
        self._made: dict[tuple[int, int], SimRun] = {}

    def jobs(self) -> Sequence[SimJob]:
        """Return the jobs of the plans."""
        return [
            SimJob(
                job_id=plan.job_id,
                name=plan.name,
                project=plan.project,
                interval=plan.interval / self._speed,
                enabled=not plan.switched_off or self._clock() < self._last(plan),
            )
            for plan in self._plans
        ]

    def _last(self, plan: JobPlan) -> float:
        """Return the time after which no run of a job begins."""
        return self._birth + plan.until / self._speed

    def _existed(self, plan: JobPlan, run: SimRun) -> bool:
        return self._birth <= run.created <= self._last(plan)

    def runs(self, since: float, until: float, job_id: str | None = None) -> Sequence[SimRun]:
        """Return the runs that overlap [since, until), oldest creation first."""
        return sorted(
            (
                run
                for index, plan in enumerate(self._plans)
                if job_id in (None, plan.job_id)
                for number in self._numbers(plan, since, until)
                if overlaps(run := self._run(index, number), since, until) and self._existed(plan, run)
            ),
            key=lambda run: run.created,
        )

    def find(self, run_id: str, now: float) -> SimRun | None:
        """Return the run with this ID, if this world has it and it was created before `now`."""
        place = read_id(run_id)
        if place is None or place[0] >= len(self._plans) or self._id(*place) != run_id:
            return None
        run = self._run(*place)
        return run if self._existed(self._plans[place[0]], run) and run.created <= now else None

    def _numbers(self, plan: JobPlan, since: float, until: float) -> Iterator[int]:
        """Yield the numbers of the runs that may overlap [since, until): first old stuck runs, then all others."""
        interval = plan.interval / self._speed
        oldest = max(since - FORGOTTEN_AFTER, self._birth - interval)
        first = max(int((since - plan.longest / self._speed) // interval), int(self._birth // interval)) - 1
        if plan.stuck_every:
            start = int(oldest // interval) // plan.stuck_every * plan.stuck_every
            yield from range(start, first, plan.stuck_every)
        yield from range(first, int(until // interval) + 1)

    def _run(self, index: int, number: int) -> SimRun:
        made = self._made.get((index, number))
        if made is None:
            if len(self._made) > CACHE_LENGTH:
                self._made.clear()
            made = self._made[index, number] = make_run(self._script(index, number), 0.0, number)
        return made

    def _script(self, index: int, number: int) -> RunScript:
        plan = self._plans[index]
        dice = random.Random(f"{self._seed}/{index}/{number}")
        created = (number + 0.2 * dice.random()) * plan.interval / self._speed
        stuck = bool(plan.stuck_every) and number % plan.stuck_every == 0
        slow = bool(plan.slow_every) and number % plan.slow_every >= plan.slow_every / 2
        length = plan.duration * dice.uniform(0.7, 1.5) * (plan.slow_factor if slow else 1.0) / self._speed
        result = _result(plan, dice, stuck=stuck)
        if result is Result.SKIP:
            length = 0.0
        return RunScript(
            run_id=self._id(index, number),
            job=plan.name,
            project=plan.project,
            job_id=plan.job_id,
            created=round(created, 3),
            start=round(created + plan.queue * dice.uniform(0.5, 1.5) / self._speed, 3),
            duration=None if plan.steps else length,
            result=result,
            steps=_steps(plan, dice, length, result),
            error_type=plan.error_type if result is Result.FAILURE else "",
            version=1 + number // plan.edit_every,
        )

    def _id(self, index: int, number: int) -> str:
        """Return a hexadecimal ID that looks like a hash and encodes index and number."""
        tail = hashlib.sha256(f"{self._seed}/{index}/{number}".encode()).hexdigest()[16 : self._id_digits]
        return f"{(index << 48 | number) ^ _mask(tail):016x}{tail}"


def read_id(run_id: str) -> tuple[int, int] | None:
    """Return the job's index and the run's number that an ID encodes; None if it is not such an ID."""
    try:
        both = int(run_id[:16], 16) ^ _mask(run_id[16:])
    except ValueError:
        return None
    return both >> 48, both & (2**48 - 1)


def _mask(tail: str) -> int:
    return int.from_bytes(hashlib.blake2b(tail.encode(), digest_size=8).digest(), "big")


def _result(plan: JobPlan, dice: random.Random, *, stuck: bool) -> Result | None:
    draw = dice.random()
    if stuck:
        return None
    if draw < plan.failing:
        return Result.FAILURE
    return Result.SKIP if draw < plan.failing + plan.skipping else Result.SUCCESS


def _steps(plan: JobPlan, dice: random.Random, length: float, result: Result | None) -> tuple[StepScript, ...]:
    """Return the steps of one run. One random step fails, gets stuck, or stops early."""
    if not plan.steps:
        return ()
    total = sum(step.weight for step in plan.steps)
    special = dice.randrange(len(plan.steps))
    stops_early = result is Result.SUCCESS and dice.random() < plan.no_op
    return tuple(
        StepScript(
            name=step.name,
            duration=round(length * step.weight / total * dice.uniform(0.8, 1.0), 3),
            result=result if place == special else Result.SUCCESS,
            dependencies=step.dependencies,
            no_op=stops_early and place == special,
        )
        for place, step in enumerate(plan.steps)
    )
