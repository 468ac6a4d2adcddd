"""What pages and JSON show: frozen records, the answers to the questions of `exporter.reports.filters`.

All instants are Unix seconds (UTC), all lengths seconds. None is what is not known, or not there; "" likewise for
texts. Names, ids, words and URLs come from vendors and are hostile: escape them wherever they are shown.
"""

from typing import Protocol

import msgspec

from exporter.model import Result, State
from exporter.reports.filters import JobFilter, RunFilter

RECENT = 20
"""Ended runs a job that come along for a sparkline."""


class Range(msgspec.Struct, frozen=True):
    """A stretch of time."""

    start: float
    end: float


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """What may be asked of an API.

    Attributes:
        requests_per_minute: As configured; sources with one credential share it.
        limit: Requests that the API allows, by its tightest limit.
        remaining: Those of them that remain.
        reset: When that limit starts anew.
    """

    requests_per_minute: float
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one source stands.

    Attributes:
        name: Its name.
        provider: The vendor's word, the config's `type`.
        api_url: Root of the API.
        up: Whether the last poll read every readable scope; None before the first.
        last_poll: When the last poll ended.
        last_poll_duration: How long it took.
        last_outcome: `success`, `partial` or `error`; "" before the first.
        last_reason: Why it failed: a value of the label `reason`.
        last_error: The same as a sentence.
        last_success: When the last successful poll ended.
        poll_interval: Between two polls, as in force now.
        watermark: All endings up to here are counted.
        lag: How far the watermark is behind now.
        baseline: Endings up to this instant are not counted.
        unobserved_seconds: Time whose endings can never be read, in all.
        unobserved: The latest such stretches, newest first, at most 20.
        truncated: Answers that were found trimmed, and asked for again in parts.
        last_truncated: When the last of them came.
        scopes_readable: Scopes that the credential may read.
        scopes_unreadable: Those that it may not.
        unreadable: Their ids, at most 20.
        jobs: Jobs known.
        open_runs: Runs that are followed.
        steps_pending: Ended runs whose steps have yet to be fetched.
        steps_lost: Ended runs whose steps the API no longer had.
        unmapped: Status words that no table knows, with the number of runs that had them.
        credential_expiry: When the credential in use ends.
        budget: What may be asked.
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
    """An ended run in short, for a sparkline. `end`: when it ended, or was seen to have if the vendor does not tell."""

    run_id: str
    result: Result
    end: float
    duration: float | None = None


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one job stands.

    Attributes:
        source: The source's name.
        project: What holds the job: the label.
        job_name: The label; a link to its runs uses these three.
        job_id: The vendor's id.
        url: The job's page at the vendor's.
        team: Who looks after it.
        schedule: In words of the vendor or the configuration.
        enabled: Whether the vendor will start it.
        stop_cause: Why the vendor will not.
        discovered: When the exporter first knew it.
        last_run: The ended run with the largest end.
        last_start: When that run started.
        streak: Failing runs since the last success.
        failing_since: The end of the first of them.
        last_success: End of the last success.
        last_failure: End of the last failing run.
        last_failed_run: Its id, "" if none is known.
        failed_step: The step that failed first in it.
        error_type: Its class of error.
        next_expected: When the next run should start; in the past if it is overdue.
        freshness: Largest age that the last success should have.
        duration_budget: How long a run should take at most.
        pending: Runs that wait.
        executing: Runs under way.
        oldest_start: The earliest start of those under way.
        status: In a word, for sorting and colour: `failing`, `overdue`, `stale` (the last success is too old), `stuck`
            (a run has been open for longer than it may), `disabled`, `ok`, `idle` (none has succeeded yet); the
            first that is true.
        folded: Whether it is counted in `__other__`, as there are too many series.
        recent: Its latest ended runs, oldest first, at most RECENT. Empty in lists that were asked for without.
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
    """Some jobs, in the order asked for. `total`: all that fit the filter; `page` and `pages` count from 1.

    `statuses`: how many jobs would fit the filter with each status, were none asked for.
    """

    jobs: tuple[JobReport, ...]
    total: int
    page: int
    pages: int
    statuses: dict[str, int] = {}


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run.

    Attributes:
        source: The source's name.
        run_id: The vendor's id.
        project: Label of its job.
        job_name: Label of its job.
        job_id: The vendor's id of its job.
        result: How it ended; None while it has not.
        state: What it is doing; None when it has ended, or its vendor's word is unmapped.
        unmapped: A status word that is in no table.
        created: When it was made.
        scheduled: When the vendor promised to start it.
        start: When it started.
        end: When it ended.
        duration: From start to end; of an open run, None.
        queue_duration: How long it waited.
        retries: Attempts beyond the first.
        recovered: Whether it ended well after a failed attempt.
        error_type: Class of its error, as the vendor names it.
        mark: What it is held for: `open`, `counted`, `late` (counted, but it ended before the watermark when first
            seen), `baseline` (ended before counting began: in no counter) or `given_up` (followed for too long, counted
            as unknown).
        endings: How often it was counted: an id that came back to life has more than one ending.
        seen: When it was last new or changed.
        url: Its page here, absolute where `web.external_url` is set, else a path.
        vendor_url: Its page at the vendor's.
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


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a run. `dependencies`: names of steps that had to end first; `usual`: its usual duration (p50)."""

    name: str
    result: Result | None = None
    state: State | None = None
    start: float | None = None
    end: float | None = None
    duration: float | None = None
    dependencies: tuple[str, ...] = ()
    usual: float | None = None


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """How long a job's successful runs took, of the latest `runs` of them. `budget`: how long they should at most."""

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
        steps_from: `api`, just asked or a moment ago: with starts and dependencies where the vendor tells them;
            `state`: results and durations only; "" where there are none.
        steps_error: Why the API could not be asked, as a sentence.
        failed_step: The step that failed first, "" if none did.
        usual: The job's durations.
        previous: The job's runs that ended before this one (of an open one, the latest), newest first, at most RECENT.
        logs: Whether output of steps can be asked for (`web.logs`).
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
    """A page of runs: open ones first, then the ended by end, newest first.

    `cursor` asks for the next page and is "" on the last; it stays right while runs are added.
    """

    runs: tuple[RunReport, ...]
    cursor: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is wrong now.

    Attributes:
        severity: `critical` or `warning`.
        kind: The alert that says the same, e.g. `JobrunLastRunFailed`; its runbook is `/runbooks#` and this in lower
            case.
        subject: What is concerned: a source, or a job as `source / project / job_name`.
        source: The source's name, "" for the exporter itself.
        project: Of a job.
        job_name: Of a job, "" otherwise.
        since: Since when, where that is known.
        sentence: What is wrong, for a person. Plain text: escape it.
        link: A path here that shows more.
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
    """The tail of a step's output, or the error text of a run. Fetched when asked for; stored nowhere."""

    source: str
    run_id: str
    step: str
    stdout: str = ""
    stderr: str = ""


class Reports(Protocol):
    """The answers; `exporter.reports.reporting.Reporter` gives them. All raise ReportError.

    Thread-safe; no method is to be called on an event loop.
    """

    @property
    def now(self) -> float:
        """The present: ages on one page are counted from one call of this."""

    def sources(self) -> tuple[SourceReport, ...]:
        """How each source stands, in the order of the configuration."""

    def jobs(self, wanted: JobFilter) -> JobList:
        """Jobs, in the order asked for: the most urgent first, if none is."""

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong now, the most urgent first."""

    def runs(self, wanted: RunFilter) -> RunList:
        """Runs, from the state."""

    def run(self, source: str, run_id: str, *, live: bool = True) -> RunPage:
        """One run; `live`: its steps are asked of the API, for a few seconds at most, unless that was done just now.

        Raises UnknownError.
        """

    def log(self, source: str, run_id: str, step: str) -> LogReport:
        """Output of a step, asked of the API; "" for the run's own error text.

        Raises LogsOffError, UnknownError, UpstreamError, BusyError.
        """
