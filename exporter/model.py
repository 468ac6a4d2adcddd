"""The words of the domain: jobs, runs, steps, and what one reading of an API brought.

Everything here is frozen data, and what there is much of is none of the garbage collector's business (`gc=False`): it
can hold no circle. All times are Unix seconds (UTC), all durations seconds.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence

import msgspec


class Result(enum.StrEnum):
    """How a run or a step ended: the words of OpenTelemetry's `cicd.pipeline.result`."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLATION = "cancellation"
    SKIP = "skip"
    UNKNOWN = "unknown"


FAILING = frozenset({Result.FAILURE, Result.ERROR, Result.TIMEOUT})
"""Results that lengthen a job's streak of failures; success ends it, the others leave it alone."""


class State(enum.StrEnum):
    """What a run that has not ended is doing."""

    PENDING = "pending"
    EXECUTING = "executing"


class Disposition(enum.StrEnum):
    """What became of a run that the API showed: the values of the label `disposition`."""

    NEW = "new"
    UPDATED = "updated"
    DUPLICATE = "duplicate"
    LATE = "late"
    BASELINE = "baseline"
    IGNORED = "ignored"
    INVALID = "invalid"


class Window(msgspec.Struct, frozen=True):
    """A stretch of time, `start` included, `end` not."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Its length in seconds."""
        return self.end - self.start


class Job(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A job as its vendor describes it.

    `job_id` is the identity within the source and never changes; `project` and `name` are labels and may.
    `scope` is what is readable or not as a whole (the source: "", a customer, a project).
    `has_steps` and `reopens` are False for a job whose runs lack what its kind of source else has: steps to ask for,
    ids that come back to life.
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
    `scheduled` is a start that the vendor has promised for the future; such a run does not age.
    `retries` are the attempts beyond the first. `recovered`: ended well after a failed attempt.
    `after_end`: open again only to clean up after its completion (a compensation), whose own end is not another one.
    The state does not keep it.
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
    """Return one row for each run ID: the ended row if there is one, of several the one with the latest end.

    The order of `runs` does not matter. An API may show a run twice in one poll, and one of the rows may be stale.
    """
    rows: dict[str, Run] = {}
    for run in runs:
        known = rows.get(run.run_id)
        if known is None or _trust(run) > _trust(known):
            rows[run.run_id] = run
    return list(rows.values())


def _trust(run: Run) -> tuple[bool, float, bool, float, str]:
    """Return what rows of one run are ordered by; the row itself comes last, so that no two different ones tie."""
    end = float("-inf") if run.end is None else run.end
    start = float("-inf") if run.start is None else run.start
    return run.result is not None, end, run.state is State.EXECUTING, start, repr(run)


class PastRun(msgspec.Struct, frozen=True):
    """What the past of a job teaches by: a run that has ended, as the state holds it."""

    start: float | None
    end: float | None
    duration: float | None
    result: Result


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. Neither `result` nor `state`: a word in no table, treated as open."""

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
    """What one reading of a scope brought; it is committed whole, in one transaction, or not at all.

    Attributes:
        scope: The scope that was read.
        jobs: Jobs named by `runs`, and jobs that discovery showed.
        catalog: True if `jobs` holds every job of the scope, so that one missing is gone.
        runs: Runs that are new or may have changed.
        unchanged: How many more rows equalled those of a reading committed before.
        invalid: How many rows could not be understood.
        through: All completed runs of the scope up to this time have now been read (the source has taken `settle` off);
            None if this reading proves nothing of the kind.
        readable: False if the scope answered 403 or 404; it is then left out of the watermark.
        listing: The listing that showed this scope, for sources that find their scopes so.
        exists: False if the scope is no more, not merely unreadable. Its jobs end, and it is forgotten, when readings
            have said so for 15 minutes; of such a reading nothing but the notes is taken.
        unobserved: Ranges that the API no longer shows, or could not show whole.
        truncated: Answers found trimmed.
        steps: Steps that came along with runs, by run id.
        gone: Ids of runs that the API no longer has, for good.
        notes: The source's own bookmarks, kept in the state with this reading; "" deletes one.
        memory: The source's own, handed back to `Source.committed`.
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
    notes: Mapping[str, str] = {}
    memory: object = None
