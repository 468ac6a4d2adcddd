"""What pages and JSON show: frozen records, the answers to the queries of `exporter.queries.filters`.

Names, IDs, words and URLs come from vendors and may be hostile: escape them wherever they are shown.
"""

# OpenAPI takes its texts from these docstrings: the sentence for the record, `Attributes` for its fields. Times are
# Unix seconds, durations seconds; None is unknown or absent, and so is "" for texts.

from typing import Protocol

import msgspec

from exporter.model import Result, State, Step
from exporter.queries.filters import JobQuery, RunQuery

RECENT = 20
"""Completed runs of a job that come with it."""


class Range(msgspec.Struct, frozen=True):
    """A range of time."""

    start: float
    end: float


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that may be sent to an API.

    Attributes:
        requests_per_minute: As configured; sources with the same credential share it.
        limit: Requests that the API allows, by its tightest limit.
        remaining: Requests that remain of that limit.
        reset: When that limit resets.
    """

    requests_per_minute: float
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one source.

    Attributes:
        name: Its name.
        provider: The vendor, as `type` in the config.
        api_url: Root URL of the API.
        up: Whether the last poll read everything that the credential may read; None before the first.
        last_poll: When the last poll ended.
        last_poll_duration: How long the last poll took.
        last_outcome: `success`, `partial` or `error`; "" before the first poll.
        last_reason: Why the last poll failed: a value of the label `reason`.
        last_error: Why the last poll failed, as a sentence.
        last_success: When the last successful poll ended.
        poll_interval: Seconds between polls, as in force now.
        watermark: All completed runs up to this time are counted.
        lag: How far the watermark is behind now.
        baseline: Runs that completed up to this time are not counted.
        unobserved_seconds: Total time whose runs can never be read.
        unobserved: The latest such ranges, newest first, at most 20.
        truncated: Truncated answers, which were fetched again in parts.
        last_truncated: When the last truncated answer came.
        last_unobserved: When the latest unobserved range was found.
        scopes_readable: Scopes that the credential may read.
        scopes_unreadable: Scopes that the credential may not read.
        unreadable: IDs of the scopes that it may not read, at most 20.
        jobs: Known jobs.
        open_runs: Active runs.
        steps_pending: Completed runs whose steps are still to be fetched.
        steps_lost: Completed runs whose steps the API no longer had.
        unmapped: Unknown status words, with the number of runs that had them.
        credential_expiry: When the credential in use expires.
        budget: Requests that may be sent.
    """

    name: str
    provider: str
    api_url: str
    up: bool | None = None
    last_poll: float | None = None
    last_poll_duration: float | None = None
    last_outcome: str = ""
    last_reason: str = ""
    last_error: str = ""
    last_success: float | None = None
    poll_interval: float
    watermark: float | None = None
    lag: float | None = None
    baseline: float | None = None
    unobserved_seconds: float = 0.0
    unobserved: tuple[Range, ...] = ()
    truncated: int = 0
    last_truncated: float | None = None
    last_unobserved: float | None = None
    scopes_readable: int = 0
    scopes_unreadable: int = 0
    unreadable: tuple[str, ...] = ()
    jobs: int = 0
    open_runs: int = 0
    steps_pending: int = 0
    steps_lost: int = 0
    unmapped: dict[str, int] = {}
    credential_expiry: float | None = None
    budget: BudgetReport


class CompletedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A completed run in short. `end`: when it ended, or was seen to have ended if the vendor does not report it."""

    run_id: str
    result: Result
    end: float
    duration: float | None = None


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one job.

    Attributes:
        source: Name of its source.
        project: The label `project`: what holds the job.
        job_name: The label `job_name`.
        job_id: The vendor's ID.
        url: Its page at the vendor.
        team: Its team.
        schedule: Its schedule, as the vendor or the config writes it.
        enabled: Whether the vendor starts it.
        stop_cause: Why the vendor does not start it.
        discovered: When the exporter first saw it.
        last_run: The completed run with the latest end.
        last_start: When that run started.
        streak: Failed runs since the last success.
        failing_since: End of the first of them.
        last_success: End of the last success.
        last_failure: End of the last failed run.
        last_failed_run: ID of the last failed run.
        failed_step: Step of that run that failed first.
        error_type: Class of error of that run.
        next_expected: When the next run should start; in the past if it is overdue.
        freshness: Maximum age of the last success.
        duration_budget: Maximum duration of a run.
        pending: Runs that wait to start.
        executing: Runs that execute.
        oldest_start: Earliest start of the runs that execute.
        status: The first that is true: `failing`, `overdue`, `stale` (the last success is too old), `stuck` (a run has
            been active for too long), `disabled`, `ok`, `idle` (no run has succeeded yet).
        folded: Whether it is counted in `__other__`, because there are too many series.
        recent: Its latest completed runs, oldest first, at most 20; empty if they were not asked for.
    """

    source: str
    project: str
    job_name: str
    job_id: str
    url: str = ""
    team: str = ""
    schedule: str = ""
    enabled: bool | None = None
    stop_cause: str = ""
    discovered: float
    last_run: CompletedRun | None = None
    last_start: float | None = None
    streak: int = 0
    failing_since: float | None = None
    last_success: float | None = None
    last_failure: float | None = None
    last_failed_run: str = ""
    failed_step: str = ""
    error_type: str = ""
    next_expected: float | None = None
    freshness: float | None = None
    duration_budget: float | None = None
    pending: int = 0
    executing: int = 0
    oldest_start: float | None = None
    status: str = "idle"
    folded: bool = False
    recent: tuple[CompletedRun, ...] = ()


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs.

    Attributes:
        jobs: The jobs.
        total: Number of jobs that match the filter.
        page: Number of the page, from 1.
        pages: Number of pages.
        statuses: Number of jobs per status that match the filter without its `status`.
    """

    jobs: tuple[JobReport, ...]
    total: int
    page: int
    pages: int
    statuses: dict[str, int] = {}


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        source: Name of its source.
        run_id: The vendor's ID.
        project: The label `project` of its job.
        job_name: The label `job_name` of its job.
        job_id: The vendor's ID of its job.
        result: Its result; None while it is active.
        state: Its state; None once it has completed, or while its status is unknown.
        unmapped: A status word that is not in any table.
        created: When it was created.
        scheduled: When the vendor intends to start it.
        start: When it started.
        end: When it ended.
        duration: From start to end; None while it is active.
        queue_duration: How long it waited to start.
        retries: Attempts after the first.
        recovered: Whether it succeeded after a failed attempt.
        error_type: Class of its error, as the vendor names it.
        mark: How it is counted: `open`, `counted`, `late` (counted, but it completed before the watermark when it was
            first seen), `baseline` (completed before counting started, in no counter) or `given_up` (expired, counted
            as unknown).
        endings: How often it was counted: an ID that became active again can complete more than once.
        seen: When it was last new or changed.
        url: Its page here; a path unless `web.external_url` is set.
        vendor_url: Its page at the vendor.
    """

    source: str
    run_id: str
    project: str
    job_name: str
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
    mark: str
    endings: int = 0
    seen: float
    url: str
    vendor_url: str = ""


class StepReport(Step, frozen=True, kw_only=True):
    """One step of a run.

    Attributes:
        dependencies: Names of steps that had to end first.
        usual: Its usual duration (p50).
    """

    usual: float | None = None


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """Usual durations of a job.

    Attributes:
        runs: Number of latest successful runs that they are computed from.
        p50: Median.
        p95: 95th percentile.
        budget: Maximum duration of a run.
    """

    runs: int = 0
    p50: float | None = None
    p95: float | None = None
    budget: float | None = None


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """One run with all that is known of it.

    Attributes:
        run: The run.
        job: Its job, with recent runs.
        steps: Its steps in the vendor's order.
        steps_from: `api` (fetched now or a moment ago, with starts and dependencies if the vendor reports them),
            `state` (results and durations only), or "" without steps.
        steps_error: Why the API could not be asked, as a sentence.
        failed_step: The step that failed first.
        usual: Usual durations of the job.
        previous: Runs of the job that completed before this one, newest first, at most 20.
        logs: Whether output of steps is available (`web.logs`).
    """

    run: RunReport
    job: JobReport | None
    steps: tuple[StepReport, ...] = ()
    steps_from: str = ""
    steps_error: str = ""
    failed_step: str = ""
    usual: Usual
    previous: tuple[RunReport, ...] = ()
    logs: bool = False


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs: active ones first, then completed ones by end, newest first.

    Attributes:
        runs: The runs.
        cursor: Parameter for the next page, "" on the last. It stays valid while runs are added.
    """

    runs: tuple[RunReport, ...]
    cursor: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A current problem.

    Attributes:
        severity: `critical`, `warning` or `info`.
        kind: Name of the matching alert, such as `JobrunLastRunFailed`; `/runbooks#` and this in lower case is its
            runbook.
        subject: A source, or a job as `source / project / job_name`.
        source: Name of the source; "" for the exporter itself.
        project: Of a job.
        job_name: Of a job, "" otherwise.
        since: When it began.
        sentence: What is wrong. Plain text: escape it.
        link: Path of a page that shows more.
    """

    severity: str
    kind: str
    subject: str
    source: str = ""
    project: str = ""
    job_name: str = ""
    since: float | None = None
    sentence: str
    link: str


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """The tail of a step's output, or the error text of a run. Fetched on demand, never stored."""

    source: str
    run_id: str
    step: str
    stdout: str = ""
    stderr: str = ""


class Reports(Protocol):
    """Answers queries. Thread-safe; must not be called on an event loop. All methods raise ReportError."""

    @property
    def now(self) -> float:
        """The present; a page uses one call of this for all its ages."""

    def sources(self) -> tuple[SourceReport, ...]:
        """Return the status of each source, in the order of the config."""

    def jobs(self, wanted: JobQuery) -> JobList:
        """Return a page of jobs."""

    def problems(self) -> tuple[Problem, ...]:
        """Return current problems, the most urgent first."""

    def runs(self, wanted: RunQuery) -> RunList:
        """Return a page of runs."""

    def run(self, source: str, run_id: str, *, live: bool = True) -> RunPage:
        """Return one run. `live`: ask the API for its steps, for a few seconds at most. Raises UnknownError."""

    def log(self, source: str, run_id: str, step: str) -> LogReport:
        """Return the output of a step, or the run's error text for "". Raises LogsOffError, UnknownError and others."""
