"""The ground truth of a simulated API: jobs, runs and steps, from their creation to their end."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from exporter.model import Result, State

MARK = "customer-data-4711"
"""Part of every title, error text and step output. It must never appear in a metric, a log or the state."""


def seen_as(start: float | None, end: float | None, result: Result | None, now: float) -> Result | State:
    """Return the result of a run or step if it has completed at a time, otherwise its state."""
    if end is not None and end <= now and result is not None:
        return result
    return State.EXECUTING if start is not None and start <= now else State.PENDING


class SimJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job. `job_id`: its ID in the world. `interval`: usual seconds between two runs."""

    job_id: str
    name: str
    project: str = ""
    schedule: str = ""
    interval: float | None = None
    enabled: bool = True


class SimStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step. `start`, `end`: None if it never starts or ends. `no_op`: whether it ends the run early, successfully."""

    name: str
    start: float | None = None
    end: float | None = None
    result: Result | None = None
    dependencies: tuple[str, ...] = ()
    no_op: bool = False

    def at(self, now: float) -> Result | State:
        """Return its result if it has completed at a time, otherwise its state."""
        return seen_as(self.start, self.end, self.result, now)


class SimRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run from its creation to its end, which may be in the future.

    If a vendor reopens a run, the world has another one with the same `run_id` and a later `created`.

    Attributes:
        end: None if it never ends.
        attempts: Number of attempts, at least 1.
        version: Number of the version of its job's definition.
    """

    run_id: str
    job_id: str
    project: str
    job_name: str
    created: float
    start: float
    end: float | None = None
    result: Result | None = None
    steps: tuple[SimStep, ...] = ()
    attempts: int = 1
    error_type: str = ""
    title: str = ""
    error: str = ""
    version: int = 1

    def at(self, now: float) -> Result | State:
        """Return its result if it has completed at a time, otherwise its state."""
        return seen_as(self.start, self.end, self.result, now)


class World(Protocol):
    """The source of the ground truth. Its runs include the future, so callers compare their times with the clock."""

    def jobs(self) -> Sequence[SimJob]:
        """Return all jobs, in a stable order."""

    def runs(self, since: float, until: float, job_id: str | None = None) -> Sequence[SimRun]:
        """Return runs created before `until` that had not completed before `since`, oldest creation first."""

    def find(self, run_id: str, now: float) -> SimRun | None:
        """Return the run with this ID. If it has several lives, return the latest one created by `now`."""


def overlaps(run: SimRun, since: float, until: float) -> bool:
    """Return whether a run overlaps [since, until)."""
    return run.created < until and (run.end is None or run.end >= since)
