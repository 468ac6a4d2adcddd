"""What pages and JSON show: frozen records, the answers to the queries of `exporter.queries.filters`.

Names, IDs, words and URLs come from vendors and may be hostile: escape them wherever they are shown.
"""

# OpenAPI shows these docstrings and descriptions. Times are Unix seconds, durations seconds; None is unknown or absent,
# and so is "" for texts.

from typing import Annotated

import msgspec

from exporter.model import Result, State, Step
from exporter.queries.filters import doc

RECENT = 20
"""Completed runs of a job that come with it."""


class Range(msgspec.Struct, frozen=True):
    """A range of time."""

    start: float
    end: float


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that may be sent to an API."""

    requests_per_minute: Annotated[float, doc("As configured; sources with the same credential share it.")]
    limit: Annotated[float | None, doc("Requests that the API allows, by its tightest limit.")] = None
    remaining: Annotated[float | None, doc("Requests that remain of that limit.")] = None
    reset: Annotated[float | None, doc("When that limit resets.")] = None


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one source."""

    name: Annotated[str, doc("Its name.")]
    provider: Annotated[str, doc("The vendor, as `type` in the config.")]
    api_url: Annotated[str, doc("Root URL of the API.")]
    up: Annotated[
        bool | None, doc("Whether the last poll read everything that the credential may read; null before the first.")
    ] = None
    last_poll: Annotated[float | None, doc("When the last poll ended.")] = None
    last_poll_duration: Annotated[float | None, doc("How long the last poll took.")] = None
    last_outcome: Annotated[str, doc('`success`, `partial` or `error`; "" before the first poll.')] = ""
    last_reason: Annotated[str, doc("Why the last poll failed: a value of the label `reason`.")] = ""
    last_error: Annotated[str, doc("Why the last poll failed, as a sentence.")] = ""
    last_success: Annotated[float | None, doc("When the last successful poll ended.")] = None
    poll_interval: Annotated[float, doc("Seconds between polls, as in force now.")]
    watermark: Annotated[float | None, doc("All completed runs up to this time are counted.")] = None
    lag: Annotated[float | None, doc("How far the watermark is behind now.")] = None
    baseline: Annotated[float | None, doc("Runs that completed up to this time are not counted.")] = None
    unobserved_seconds: Annotated[float, doc("Total time whose runs can never be read.")] = 0.0
    unobserved: Annotated[tuple[Range, ...], doc("The latest such ranges, newest first, at most 20.")] = ()
    truncated: Annotated[int, doc("Truncated answers, which were fetched again in parts.")] = 0
    last_truncated: Annotated[float | None, doc("When the last truncated answer came.")] = None
    last_unobserved: Annotated[float | None, doc("When the latest unobserved range was found.")] = None
    scopes_readable: Annotated[int, doc("Scopes that the credential may read.")] = 0
    scopes_unreadable: Annotated[int, doc("Scopes that the credential may not read.")] = 0
    unreadable: Annotated[tuple[str, ...], doc("IDs of the scopes that it may not read, at most 20.")] = ()
    jobs: Annotated[int, doc("Known jobs.")] = 0
    open_runs: Annotated[int, doc("Active runs.")] = 0
    steps_pending: Annotated[int, doc("Completed runs whose steps are still to be fetched.")] = 0
    steps_lost: Annotated[int, doc("Completed runs whose steps the API no longer had.")] = 0
    unmapped: Annotated[dict[str, int], doc("Unknown status words, with the number of runs that had them.")] = {}
    credential_expiry: Annotated[float | None, doc("When the credential in use expires.")] = None
    credential_since: Annotated[float | None, doc("When that time was first seen.")] = None
    budget: Annotated[BudgetReport, doc("Requests that may be sent.")]


class CompletedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A completed run in short."""

    run_id: str
    result: Result
    end: Annotated[float, doc("When it ended, or was seen to have ended if the vendor does not report it.")]
    duration: float | None = None


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one job."""

    source: Annotated[str, doc("Name of its source.")]
    project: Annotated[str, doc("The label `project`: what holds the job.")]
    job_name: Annotated[str, doc("The label `job_name`.")]
    job_id: Annotated[str, doc("The vendor's ID.")]
    url: Annotated[str, doc("Its page at the vendor.")] = ""
    team: Annotated[str, doc("Its team.")] = ""
    schedule: Annotated[str, doc("Its schedule, as the vendor or the config writes it.")] = ""
    enabled: Annotated[bool | None, doc("Whether the vendor starts it.")] = None
    stop_cause: Annotated[str, doc("Why the vendor does not start it.")] = ""
    discovered: Annotated[float, doc("When the exporter first saw it.")]
    last_run: Annotated[CompletedRun | None, doc("The completed run with the latest end.")] = None
    last_start: Annotated[float | None, doc("When that run started.")] = None
    streak: Annotated[int, doc("Failed runs since the last success.")] = 0
    failing_since: Annotated[float | None, doc("End of the first of them.")] = None
    last_success: Annotated[float | None, doc("End of the last success.")] = None
    last_failure: Annotated[float | None, doc("End of the last failed run.")] = None
    last_failed_run: Annotated[str, doc("ID of the last failed run.")] = ""
    failed_step: Annotated[str, doc("Step of that run that failed first.")] = ""
    error_type: Annotated[str, doc("Class of error of that run.")] = ""
    next_expected: Annotated[float | None, doc("When the next run should start; in the past if it is overdue.")] = None
    freshness: Annotated[float | None, doc("Maximum age of the last success.")] = None
    duration_budget: Annotated[float | None, doc("Maximum duration of a run.")] = None
    pending: Annotated[int, doc("Runs that wait to start.")] = 0
    executing: Annotated[int, doc("Runs that execute.")] = 0
    oldest_start: Annotated[float | None, doc("Earliest start of the runs that execute.")] = None
    status: Annotated[
        str,
        doc(
            "The first that is true: `failing`, `overdue`, `stale` (the last success is too old), `stuck` (a run "
            "has been active for too long), `disabled`, `ok`, `idle` (no run has succeeded yet)."
        ),
    ] = "idle"
    folded: Annotated[bool, doc("Whether it is counted in `__other__`, because there are too many series.")] = False
    recent: Annotated[
        tuple[CompletedRun, ...],
        doc("Its latest completed runs, oldest first, at most 20; empty if they were not asked for."),
    ] = ()


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs."""

    jobs: Annotated[tuple[JobReport, ...], doc("The jobs.")]
    total: Annotated[int, doc("Number of jobs that match the filter.")]
    page: Annotated[int, doc("Number of the page, from 1.")]
    pages: Annotated[int, doc("Number of pages.")]
    statuses: Annotated[
        dict[str, int], doc("Number of jobs per status that match the filter without its `status`.")
    ] = {}


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    source: Annotated[str, doc("Name of its source.")]
    run_id: Annotated[str, doc("The vendor's ID.")]
    project: Annotated[str, doc("The label `project` of its job.")]
    job_name: Annotated[str, doc("The label `job_name` of its job.")]
    job_id: Annotated[str, doc("The vendor's ID of its job.")]
    result: Annotated[Result | None, doc("Its result; null while it is active.")] = None
    state: Annotated[State | None, doc("Its state; null once it has completed, or while its status is unknown.")] = None
    unmapped: Annotated[str, doc("A status word that is not in any table.")] = ""
    created: Annotated[float | None, doc("When it was created.")] = None
    scheduled: Annotated[float | None, doc("When the vendor intends to start it.")] = None
    start: Annotated[float | None, doc("When it started.")] = None
    end: Annotated[float | None, doc("When it ended.")] = None
    duration: Annotated[float | None, doc("From start to end; null while it is active.")] = None
    queue_duration: Annotated[float | None, doc("How long it waited to start.")] = None
    retries: Annotated[int, doc("Attempts after the first.")] = 0
    recovered: Annotated[bool, doc("Whether it succeeded after a failed attempt.")] = False
    error_type: Annotated[str, doc("Class of its error, as the vendor names it.")] = ""
    mark: Annotated[
        str,
        doc(
            "How it is counted: `open`, `counted`, `late` (counted, but it completed before the watermark when "
            "it was first seen), `baseline` (completed before counting started, in no counter) or `given_up` "
            "(expired, counted as unknown)."
        ),
    ]
    endings: Annotated[
        int, doc("How often it was counted: an ID that became active again can complete more than once.")
    ] = 0
    seen: Annotated[float, doc("When it was last new or changed.")]
    url: Annotated[str, doc("Its page here; a path unless `web.external_url` is set.")]
    vendor_url: Annotated[str, doc("Its page at the vendor.")] = ""


class StepReport(Step, frozen=True, kw_only=True):
    """One step of a run."""

    dependencies: Annotated[tuple[str, ...], doc("Names of steps that had to end first.")] = ()
    usual: Annotated[float | None, doc("Its usual duration (p50).")] = None


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """Usual durations of a job."""

    runs: Annotated[int, doc("Number of latest successful runs that they are computed from.")] = 0
    p50: Annotated[float | None, doc("Median.")] = None
    p95: Annotated[float | None, doc("95th percentile.")] = None
    budget: Annotated[float | None, doc("Maximum duration of a run.")] = None


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """One run with all that is known of it."""

    run: Annotated[RunReport, doc("The run.")]
    job: Annotated[JobReport | None, doc("Its job, with recent runs.")]
    steps: Annotated[tuple[StepReport, ...], doc("Its steps in the vendor's order.")] = ()
    steps_from: Annotated[
        str,
        doc(
            "`api` (fetched now or a moment ago, with starts and dependencies if the vendor reports them), "
            '`state` (results and durations only), or "" without steps.'
        ),
    ] = ""
    steps_error: Annotated[str, doc("Why the API could not be asked, as a sentence.")] = ""
    failed_step: Annotated[str, doc("The step that failed first.")] = ""
    usual: Annotated[Usual, doc("Usual durations of the job.")]
    previous: Annotated[
        tuple[RunReport, ...], doc("Runs of the job that completed before this one, newest first, at most 20.")
    ] = ()
    logs: Annotated[bool, doc("Whether output of steps is available (`web.logs`).")] = False


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs: active ones first, then completed ones by end, newest first."""

    runs: Annotated[tuple[RunReport, ...], doc("The runs.")]
    cursor: Annotated[str, doc('Parameter for the next page, "" on the last. It stays valid while runs are added.')] = (
        ""
    )


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A current problem."""

    severity: Annotated[str, doc("`critical`, `warning` or `info`.")]
    kind: Annotated[
        str,
        doc(
            "Name of the matching alert, such as `JobrunLastRunFailed`; `/runbooks#` and this in lower case is "
            "its runbook."
        ),
    ]
    subject: Annotated[str, doc("A source, or a job as `source / project / job_name`.")]
    source: Annotated[str, doc('Name of the source; "" for the exporter itself.')] = ""
    project: Annotated[str, doc("Of a job.")] = ""
    job_name: Annotated[str, doc('Of a job, "" otherwise.')] = ""
    team: Annotated[str, doc("Team of a job.")] = ""
    since: Annotated[float | None, doc("When it began.")] = None
    sentence: Annotated[str, doc("What is wrong. Plain text: escape it.")]
    link: Annotated[str, doc("Path of a page that shows more.")]


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """The tail of a step's output, or the error text of a run. Fetched on demand, never stored."""

    source: str
    run_id: str
    step: str
    stdout: str = ""
    stderr: str = ""
