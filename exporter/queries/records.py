"""Results of queries. Pages and `/api/v1` show them.

Names, IDs, texts and URLs come from vendors and may be hostile. Escape them wherever they are shown.
"""

# The OpenAPI document contains these docstrings and descriptions. Times are Unix seconds, and durations are seconds. A
# value that is unknown or does not exist is None, or "" if it is a text.

from typing import Annotated

import msgspec

from exporter.model import Result, State, Step
from exporter.queries.filters import doc

RECENT = 20
"""Maximum number of completed runs in the report of a job."""


class Range(msgspec.Struct, frozen=True):
    """A range of time."""

    start: float
    end: float


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that may be sent to an API."""

    requests_per_minute: Annotated[float, doc("Configured budget. Sources with the same credential share it.")]
    limit: Annotated[float | None, doc("The API's tightest rate limit, in requests.")] = None
    remaining: Annotated[float | None, doc("Requests that this limit still allows.")] = None
    reset: Annotated[float | None, doc("When this limit resets.")] = None


class SourceReport(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one source."""

    name: Annotated[str, doc("Name of the source.")]
    provider: Annotated[str, doc("The vendor, as `type` in the config.")]
    api_url: Annotated[str, doc("Root URL of the API.")]
    up: Annotated[bool | None, doc("Whether the last poll read all that it may read; null before the first.")] = None
    last_poll: Annotated[float | None, doc("When the last poll ended.")] = None
    last_poll_duration: Annotated[float | None, doc("How long the last poll took.")] = None
    last_outcome: Annotated[str, doc('`success`, `partial` or `error`; "" before the first poll.')] = ""
    last_reason: Annotated[str, doc("Why the last poll failed: a value of the label `reason`.")] = ""
    last_error: Annotated[str, doc("Why the last poll failed, as a sentence.")] = ""
    last_success: Annotated[float | None, doc("When the last successful poll ended.")] = None
    poll_interval: Annotated[float, doc("Current seconds between polls.")]
    watermark: Annotated[float | None, doc("All completed runs up to this time are counted.")] = None
    lag: Annotated[float | None, doc("Seconds by which the watermark is behind the current time.")] = None
    baseline: Annotated[float | None, doc("Runs that completed up to this time are not counted.")] = None
    unobserved_seconds: Annotated[float, doc("Total length of the time ranges whose runs can never be read.")] = 0.0
    unobserved: Annotated[tuple[Range, ...], doc("The latest unobserved ranges, newest first, at most 20.")] = ()
    truncated: Annotated[int, doc("Truncated responses; the missing runs are requested again.")] = 0
    last_truncated: Annotated[float | None, doc("When a response was last truncated.")] = None
    last_unobserved: Annotated[float | None, doc("When the latest unobserved range was found.")] = None
    scopes_readable: Annotated[int, doc("Scopes that the credential may read.")] = 0
    scopes_unreadable: Annotated[int, doc("Scopes that the credential may not read.")] = 0
    unreadable: Annotated[tuple[str, ...], doc("IDs of unreadable scopes, at most 20.")] = ()
    jobs: Annotated[int, doc("Known jobs.")] = 0
    open_runs: Annotated[int, doc("Active runs.")] = 0
    steps_pending: Annotated[int, doc("Completed runs whose steps are not fetched yet.")] = 0
    steps_lost: Annotated[int, doc("Completed runs whose steps the API no longer had.")] = 0
    unmapped: Annotated[dict[str, int], doc("Number of runs per unknown status.")] = {}
    credential_expiry: Annotated[float | None, doc("When the credential in use expires.")] = None
    credential_since: Annotated[float | None, doc("When `credential_expiry` was first reported.")] = None
    budget: Annotated[BudgetReport, doc("Requests that may be sent.")]


class CompletedRun(msgspec.Struct, frozen=True, kw_only=True):
    """Short report of a completed run."""

    run_id: str
    result: Result
    end: Annotated[float, doc("When it ended; if the vendor does not report this, when it was first seen completed.")]
    duration: float | None = None


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """Status of one job."""

    source: Annotated[str, doc("Name of its source.")]
    project: Annotated[str, doc("The label `project`: environment, customer or project of the job.")]
    job_name: Annotated[str, doc("The label `job_name`.")]
    job_id: Annotated[str, doc("The vendor's ID.")]
    url: Annotated[str, doc("Link to the job at its vendor.")] = ""
    team: Annotated[str, doc("Team of the job.")] = ""
    schedule: Annotated[str, doc("Schedule, as the vendor or the config writes it.")] = ""
    enabled: Annotated[bool | None, doc("Whether the job may run.")] = None
    stop_cause: Annotated[str, doc("Why the vendor stopped the job.")] = ""
    discovered: Annotated[float, doc("When the exporter first saw it.")]
    last_run: Annotated[CompletedRun | None, doc("The completed run with the latest end.")] = None
    last_start: Annotated[float | None, doc("When the last run started.")] = None
    streak: Annotated[int, doc("Failed runs since the last success.")] = 0
    failing_since: Annotated[float | None, doc("End of the first of these failed runs.")] = None
    last_success: Annotated[float | None, doc("End of the last success.")] = None
    last_failure: Annotated[float | None, doc("End of the last failed run.")] = None
    last_failed_run: Annotated[str, doc("ID of the last failed run.")] = ""
    failed_step: Annotated[str, doc("The step that failed first in the last failed run.")] = ""
    error_type: Annotated[str, doc("Type of error of the last failed run.")] = ""
    next_expected: Annotated[float | None, doc("When the next run should start; in the past if it is overdue.")] = None
    freshness: Annotated[float | None, doc("Maximum age of the last success.")] = None
    duration_budget: Annotated[float | None, doc("Maximum duration of a run.")] = None
    pending: Annotated[int, doc("Active runs in state `pending`.")] = 0
    executing: Annotated[int, doc("Active runs in state `executing`.")] = 0
    oldest_start: Annotated[float | None, doc("Earliest start of the executing runs.")] = None
    status: Annotated[
        str,
        doc(
            "The first of these that applies: `failing`, `overdue`, `stale` (the last success is too old), `stuck` (a "
            "run has been active for too long), `disabled`, `ok`, `idle` (no run has succeeded yet)."
        ),
    ] = "idle"
    folded: Annotated[bool, doc("Whether it is counted under `__other__`, because there are too many series.")] = False
    recent: Annotated[tuple[CompletedRun, ...], doc("Its latest completed runs, if requested, oldest first.")] = ()


class JobList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of jobs."""

    jobs: Annotated[tuple[JobReport, ...], doc("The jobs.")]
    total: Annotated[int, doc("Number of jobs that match the filter.")]
    page: Annotated[int, doc("Number of the page, from 1.")]
    pages: Annotated[int, doc("Number of pages.")]
    statuses: Annotated[dict[str, int], doc("Number of jobs per status. All filters apply except `status`.")] = {}


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    source: Annotated[str, doc("Name of its source.")]
    run_id: Annotated[str, doc("The vendor's ID.")]
    project: Annotated[str, doc("The label `project` of its job.")]
    job_name: Annotated[str, doc("The label `job_name` of its job.")]
    job_id: Annotated[str, doc("The vendor's ID of its job.")]
    result: Annotated[Result | None, doc("Its result; null while it is active.")] = None
    state: Annotated[State | None, doc("Its state; null if it has completed, or if its status is unknown.")] = None
    unmapped: Annotated[str, doc("A status that the exporter does not know.")] = ""
    created: Annotated[float | None, doc("When it was created.")] = None
    scheduled: Annotated[float | None, doc("Planned start.")] = None
    start: Annotated[float | None, doc("When it started.")] = None
    end: Annotated[float | None, doc("When it ended.")] = None
    duration: Annotated[float | None, doc("Seconds from start to end; null while it is active.")] = None
    queue_duration: Annotated[float | None, doc("Seconds that it waited before it started.")] = None
    retries: Annotated[int, doc("Attempts after the first.")] = 0
    recovered: Annotated[bool, doc("Whether it succeeded after a failed attempt.")] = False
    error_type: Annotated[str, doc("Type of its error, as the vendor names it.")] = ""
    mark: Annotated[
        str,
        doc(
            "How it is counted: `open`, `counted`, `late` (counted, but it completed before the watermark when "
            "it was first seen), `baseline` (completed before counting started, in no counter) or `given_up` "
            "(expired, counted as unknown)."
        ),
    ]
    endings: Annotated[int, doc("How often it was counted. A run that is reopened can complete more than once.")] = 0
    seen: Annotated[float, doc("When the exporter last saw it change.")]
    url: Annotated[str, doc("Link to its page on this exporter; only a path if `web.external_url` is not set.")]
    vendor_url: Annotated[str, doc("Link to the run at its vendor.")] = ""


class StepReport(Step, frozen=True, kw_only=True):
    """One step of a run."""

    dependencies: Annotated[tuple[str, ...], doc("Names of the steps that had to end first.")] = ()
    usual: Annotated[float | None, doc("Its usual duration (median).")] = None


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """Usual durations of a job."""

    runs: Annotated[int, doc("Number of runs they are computed from: the latest successful ones.")] = 0
    p50: Annotated[float | None, doc("Median.")] = None
    p95: Annotated[float | None, doc("95th percentile.")] = None
    budget: Annotated[float | None, doc("Maximum duration of a run.")] = None


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """One run with its job, steps and previous runs."""

    run: Annotated[RunReport, doc("The run.")]
    job: Annotated[JobReport | None, doc("Its job, with recent runs.")]
    steps: Annotated[tuple[StepReport, ...], doc("Its steps in the vendor's order.")] = ()
    steps_from: Annotated[
        str,
        doc(
            "`api` (fetched within the last minute, with starts and dependencies if the vendor reports them), "
            '`state` (only results and durations), or "" if there are no steps.'
        ),
    ] = ""
    steps_error: Annotated[str, doc("Why the steps could not be fetched, as a sentence.")] = ""
    failed_step: Annotated[str, doc("The step that failed first.")] = ""
    usual: Annotated[Usual, doc("Usual durations of the job.")]
    previous: Annotated[tuple[RunReport, ...], doc("Runs of the job that completed before it, newest first.")] = ()
    logs: Annotated[bool, doc("Whether output of steps is available (`web.logs`).")] = False


class RunList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of runs: active ones first, then completed ones by end, newest first."""

    runs: Annotated[tuple[RunReport, ...], doc("The runs.")]
    cursor: Annotated[str, doc('Cursor of the next page; "" on the last. It stays valid while runs are added.')] = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """A current problem."""

    severity: Annotated[str, doc("`critical`, `warning` or `info`.")]
    kind: Annotated[str, doc("Name of the alert. Its runbook is at `/runbooks#` and the name in lower case.")]
    subject: Annotated[str, doc("A source, or a job as `source / project / job_name`.")]
    source: Annotated[str, doc('Name of the source; "" for the exporter itself.')] = ""
    project: Annotated[str, doc("The label `project` of a job.")] = ""
    job_name: Annotated[str, doc('The label `job_name` of a job; "" for a source.')] = ""
    team: Annotated[str, doc("Team of a job.")] = ""
    since: Annotated[float | None, doc("Since when it exists.")] = None
    sentence: Annotated[str, doc("Description of the problem. Plain text: escape it.")]
    link: Annotated[str, doc("Path of a page with details.")]


class LogReport(msgspec.Struct, frozen=True, kw_only=True):
    """The tail of a step's output, or the error text of a run. It is fetched on request and never stored."""

    source: str
    run_id: str
    step: str
    stdout: str = ""
    stderr: str = ""
