"""The types of the domain: jobs, runs, steps and batches.

All are frozen. All times are Unix seconds (UTC), all durations are seconds. Numerous objects are not tracked by the
garbage collector (`gc=False`): they cannot contain reference cycles.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Result(enum.StrEnum):
    """Result of a completed run or step: the values of OpenTelemetry's `cicd.pipeline.result`, and `unknown`."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLATION = "cancellation"
    SKIP = "skip"
    UNKNOWN = "unknown"


FAILING = frozenset({Result.FAILURE, Result.ERROR, Result.TIMEOUT})
"""Results that lengthen a job's streak of failures. A success ends the streak; other results do not change it."""


FUTURE_MARGIN = 300.0
"""Seconds by which a time may be in the future, as clocks differ."""


class State(enum.StrEnum):
    """State of an active run."""

    PENDING = "pending"
    EXECUTING = "executing"


class Disposition(enum.StrEnum):
    """What a row of the API meant: the values of the label `disposition`."""

    NEW = "new"
    UPDATED = "updated"
    DUPLICATE = "duplicate"
    LATE = "late"
    BASELINE = "baseline"
    IGNORED = "ignored"
    INVALID = "invalid"


class Window(msgspec.Struct, frozen=True):
    """Time range that includes `start` and excludes `end`."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Its length in seconds."""
        return self.end - self.start


class Job(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A job as its vendor describes it.

    `job_id` identifies the job within the source and never changes; `project` and `name` are labels and may change.
    `scope` is the part of the source that is readable or unreadable as a whole: "" (all of it), a customer, a project.
    `has_steps` and `reopens` are False for a job whose runs have no steps or are never reopened, although other runs of
    this kind of source have steps or can be reopened.
    """

    job_id: str
    name: str
    project: str = ""
    scope: str = ""
    schedule: str = ""
    timezone: str = ""
    url: str = ""
    enabled: bool | None = None
    stop_cause: str = ""
    has_steps: bool = True
    reopens: bool = True


class Run(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One run as the API shows it now.

    Ended: `result` is set. Open: `state` is set, or neither where the vendor's word is unmapped.
    `unmapped` holds a status word that is in no table, "" otherwise.
    `scheduled` is a planned start in the future; until then the run does not age.
    `retries` are the attempts after the first. `recovered`: the run succeeded after a failed attempt.
    `after_end`: the run is active again only to clean up after its completion (a compensation). The end of that is not
    another completion. The state does not store this field.
    """

    run_id: str
    job_id: str
    result: Result | None = None
    state: State | None = None
    unmapped: str = ""
    created: float | None = None
    scheduled: float | None = None
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    queue_duration: float | None = None
    retries: int = 0
    recovered: bool = False
    error_type: str = ""
    after_end: bool = False


def one_row_per_run(runs: Iterable[Run]) -> list[Run]:
    """Return one row for each run ID: the completed row if there is one, of several the one with the latest end.

    The order of `runs` does not matter. An API may show a run twice in one poll, and one of the rows may be stale.
    """
    rows: dict[str, Run] = {}
    for run in runs:
        known = rows.get(run.run_id)
        if known is None or _trust(run) > _trust(known):
            rows[run.run_id] = run
    return list(rows.values())


def _trust(run: Run) -> tuple[bool, float, bool, float, str]:
    """Return the sort key of rows of one run. It ends with the row itself, so that different rows never tie."""
    end = float("-inf") if run.end is None else run.end
    start = float("-inf") if run.start is None else run.start
    return run.result is not None, end, run.state is State.EXECUTING, start, repr(run)


class PastRun(msgspec.Struct, frozen=True):
    """A completed run in the state, from which a job's expectations are learned."""

    start: float | None
    end: float | None
    duration: float | None
    result: Result


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. Without `result` and `state` its status is unmapped, and it counts as active."""

    name: str
    result: Result | None = None
    state: State | None = None
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    dependencies: tuple[str, ...] = ()


class Listing(msgspec.Struct, frozen=True):
    """Scopes as a vendor listed them. `at`: when it was asked."""

    at: float
    scopes: frozenset[str]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What a poll read of one scope. It is committed completely, in one transaction, or not at all.

    Attributes:
        scope: The scope that was read.
        jobs: Jobs of `runs`, and jobs that the vendor listed.
        catalog: True if `jobs` has every job of the scope, so that a missing one is gone.
        runs: Runs that are new or may have changed.
        unchanged: How many more rows were equal to those of an earlier, committed batch.
        invalid: How many rows could not be parsed.
        through: Time up to which all completed runs of the scope are read (`settle` is already subtracted); None if
            this batch proves no such time.
        readable: False if the API answered 403 or 404 for the scope. The watermark then ignores the scope.
        listing: The list that contained this scope, for sources that discover their scopes.
        exists: False if the scope was deleted, not only unreadable. After 15 minutes of such batches its jobs and the
            scope are removed. Only the checkpoints of such a batch are used.
        unobserved: Ranges that the API no longer shows or could not show completely.
        truncated: Number of truncated responses.
        steps: Steps that came with the runs, by run ID.
        gone: IDs of runs that the API no longer has.
        checkpoints: Positions at which the source continues to read, stored with this batch; "" deletes one.
        memory: Data of the source, passed back to `Source.committed`.
    """

    scope: str = ""
    jobs: Sequence[Job] = ()
    catalog: bool = False
    runs: Sequence[Run] = ()
    unchanged: int = 0
    invalid: int = 0
    through: float | None = None
    readable: bool = True
    listing: Listing | None = None
    exists: bool = True
    unobserved: Sequence[Window] = ()
    truncated: int = 0
    steps: Mapping[str, Sequence[Step]] = {}
    gone: Sequence[str] = ()
    checkpoints: Mapping[str, str] = {}
    memory: object = None
