"""The ground truth behind a simulated API: jobs, runs and steps with their whole lives."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from exporter.model import Result, State

MARK = "customer-data-4711"
"""Part of every title, error text and step output. It must never appear in a metric, a log or the state."""


def seen_as(start: float | None, end: float | None, result: Result | None, now: float) -> Result | State:
    """Return the result of a run or step that has completed by a time, or its state."""
    if end is not None and end <= now and result is not None:
        return result
    return State.EXECUTING if start is not None and start <= now else State.PENDING


class SimJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job. `job_id` is its identity in the world, `interval` the usual number of seconds between two runs."""

    job_id: str
    name: str
    project: str = ""
    schedule: str = ""
    interval: float | None = None
    enabled: bool = True


class SimStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step's whole life. `start`, `end`: None if it never starts or ends. `no_op`: whether it stops early."""

    name: str
    start: float | None = None
    end: float | None = None
    result: Result | None = None
    dependencies: tuple[str, ...] = ()
    no_op: bool = False

    def at(self, now: float) -> Result | State:
        """Return its result if it has completed by a time, or its state."""
        return seen_as(self.start, self.end, self.result, now)


class SimRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run's whole life, the future included. `end` None: it never ends.

    A vendor that reopens ids has two of these with one `run_id` and different `created`.
    `version` counts the edits of its job's definition; `attempts` counts from 1.
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
        """Return its result if it has completed by a time, or its state."""
        return seen_as(self.start, self.end, self.result, now)


class World(Protocol):
    """The source of the ground truth. Results include the future, so callers compare them with the clock."""

    def jobs(self) -> Sequence[SimJob]:
        """Return all jobs, in a stable order."""

    def runs(self, since: float, until: float, job_id: str | None = None) -> Sequence[SimRun]:
        """Return runs created before `until` that had not completed before `since`, oldest creation first."""

    def find(self, run_id: str, now: float) -> SimRun | None:
        """Return the run with this ID. If it has several lives, return the latest one created by `now`."""


def overlaps(run: SimRun, since: float, until: float) -> bool:
    """Return whether a run's life touches [since, until)."""
    return run.created < until and (run.end is None or run.end >= since)
