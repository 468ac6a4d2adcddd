"""What truly happens, whatever an API says about it: jobs, runs and steps with their whole lives."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from exporter.model import Result, State

MARK = "customer-data-4711"
"""Stands in every title, error text and step output; it must never be found in a metric, a log or the state."""


def seen_as(start: float | None, end: float | None, result: Result | None, now: float) -> Result | State:
    """What something is at an instant: its result once it ended, else what it is doing."""
    if end is not None and end <= now and result is not None:
        return result
    return State.EXECUTING if start is not None and start <= now else State.PENDING


class SimJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job. `job_id` is its identity in the world; `interval` the usual seconds between two runs."""

    job_id: str
    name: str
    project: str = ""
    schedule: str = ""
    interval: float | None = None
    enabled: bool = True


class SimStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step's whole life. `start` None: it never starts. `end` None: it never ends. `no_op`: it stopped early."""

    name: str
    start: float | None = None
    end: float | None = None
    result: Result | None = None
    dependencies: tuple[str, ...] = ()
    no_op: bool = False

    def at(self, now: float) -> Result | State:
        """What it is at an instant."""
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
        """What it is at an instant."""
        return seen_as(self.start, self.end, self.result, now)


class World(Protocol):
    """Everything that happens. Answers include what has not happened yet: who asks compares with the clock."""

    def jobs(self) -> Sequence[SimJob]:
        """All jobs, in a stable order."""

    def runs(self, since: float, until: float, job_id: str | None = None) -> Sequence[SimRun]:
        """Runs created before `until` that had not ended before `since`, oldest creation first."""

    def find(self, run_id: str, now: float) -> SimRun | None:
        """The run of this id; of several lives the latest that had been created by `now`."""


def overlaps(run: SimRun, since: float, until: float) -> bool:
    """Whether a run's life touches [since, until)."""
    return run.created < until and (run.end is None or run.end >= since)
