"""The domain: jobs, runs, steps and batches.

Times are Unix seconds (UTC), and durations are seconds. Objects with `gc=False` cannot be part of a reference cycle, so
the garbage collector need not track them.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Result(enum.StrEnum):
    """Result of a completed run or step: a value of OpenTelemetry's `cicd.pipeline.result`, or `unknown`."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLATION = "cancellation"
    SKIP = "skip"
    UNKNOWN = "unknown"


FAILING = frozenset({Result.FAILURE, Result.ERROR, Result.TIMEOUT})
"""Results that continue a job's streak of failures. A success ends the streak; other results do not change it."""


FUTURE_MARGIN = 300.0
"""Seconds by which a time may be in the future, because clocks differ."""


class State(enum.StrEnum):
    """State of an active run."""

    PENDING = "pending"
    EXECUTING = "executing"


class Disposition(enum.StrEnum):
    """What the ledger does with a row of the API: the values of the label `disposition`."""

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
        """Return the length in seconds."""
        return self.end - self.start


class Job(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A job as its vendor describes it.

    Attributes:
        job_id: The vendor's ID, unique in the source. It never changes.
        name: The label `job_name`. It may change.
        project: The label `project`. It may change.
        scope: The scope that contains the job; "" if the source has only one.
        schedule: The vendor's schedule, usually a cron expression; "" if it has none.
        timezone: Time zone of the schedule; "" if the vendor does not name one.
        url: Link to the job at its vendor; "" if there is none.
        enabled: Whether the job may run; None if the vendor does not say.
        stop_cause: Why the vendor stopped the job; "" if it did not.
        has_steps: Whether its runs have steps, if runs of the source have any.
        reopens: Whether its runs can be reopened, if runs of the source can.
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

    Attributes:
        run_id: The vendor's ID, unique in the source.
        job_id: ID of its job.
        result: Its result; None while it is active.
        state: Its state; None if it has completed or its status is unknown.
        unmapped: Its status, if the exporter does not know it; otherwise "".
        created: When the run was created.
        scheduled: Planned start. Before it, the run cannot expire.
        start: When the run started.
        end: When the run completed.
        duration: Seconds from start to end.
        queue_duration: Seconds that the run waited before it started.
        retries: Number of attempts after the first.
        recovered: Whether the run succeeded after a failed attempt.
        error_type: Type of the error of a failed run; "" if unknown.
        after_end: Whether a completed run is active again only to clean up (a compensation). The end of the cleanup is
            not another completion. The state does not store this field.
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
    """Return the best row of each run: completed before active, then the later end, then the later attempt.

    The order of `runs` does not matter.
    """
    # An API may show a run twice in one poll, and one of the rows may be stale.
    rows: dict[str, Run] = {}
    for run in runs:
        known = rows.get(run.run_id)
        if known is None or _preference(run) > _preference(known):
            rows[run.run_id] = run
    return list(rows.values())


def _preference(run: Run) -> tuple[bool, float, int, bool, float, str]:
    """Return a sort key for rows of one run. Only equal rows have equal keys."""
    end = float("-inf") if run.end is None else run.end
    start = float("-inf") if run.start is None else run.start
    return run.result is not None, end, run.retries, run.state is State.EXECUTING, start, repr(run)


class PastRun(msgspec.Struct, frozen=True):
    """A completed run, from which expectations of its job are learned."""

    start: float | None
    end: float | None
    duration: float | None
    result: Result


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. If it has neither result nor state, its status is unknown, and it counts as active."""

    name: str
    result: Result | None = None
    state: State | None = None
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    dependencies: tuple[str, ...] = ()


class Listing(msgspec.Struct, frozen=True):
    """The vendor's list of scopes. `at`: time of the request."""

    at: float
    scopes: frozenset[str]


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a scope that a poll has read. It is committed in one transaction.

    Attributes:
        scope: The scope that was read.
        jobs: Jobs of `runs`, and jobs that the vendor listed.
        catalog: Whether `jobs` has every job of the scope. A missing job was then deleted.
        runs: Runs that are new or may have changed.
        unchanged: Number of rows that are equal to rows of an earlier, committed batch. They are not in `runs`.
        invalid: Number of rows that could not be parsed.
        through: Time up to which all completed runs of the scope were read, minus `settle`; None if some may be
            missing.
        readable: False if the API returned 403 or 404 for the scope. The watermark then ignores the scope.
        listing: The vendor's list of scopes, if the source discovers its scopes. It contains this one.
        exists: False if the scope was deleted. `runs` is then ignored. After 15 minutes of such batches the series of
            the scope's jobs end, and the scope is removed.
        unobserved: Ranges that the API no longer shows or could not show completely.
        truncated: Number of truncated responses.
        steps: Steps that came with the runs, by run ID.
        gone: IDs of runs that the API no longer has.
        checkpoints: Positions at which the source continues to read, stored with this batch; "" deletes one.
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
