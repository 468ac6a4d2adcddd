"""The table of all metric families: of jobs, of sources, of the exporter and of its process.

The row of a gauge has a function that computes its value, or its labeled samples, from a view. The row of a counter or
histogram has none, because records store its series under its name. So a new counter needs only a new row here.
"""

from exporter.counting.names import (
    ERRORS,
    QUEUE_DURATION,
    RECOVERED,
    RETRIED,
    ROOT_FAILURES,
    RUN_DURATION,
    RUNS,
    STEP_DURATION,
    STEPS,
)
from exporter.errors import REASONS
from exporter.metrics import samples
from exporter.metrics.family import (
    Family,
    Kind,
    Level,
    Stability,
    counter,
    exporter_gauge,
    gauge,
    histogram,
    labeled_gauge,
    process_row,
    request_row,
    source_counter,
    source_gauge,
)
from exporter.model import Disposition

# All values of a bounded label are seeded, so that `increase()` sees the first error.
OUTCOMES = ("success", "partial", "error", "skipped")
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DELAY_BUCKETS = (10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)

UNOBSERVED = "jobrun_source_unobserved_seconds_total"
TRUNCATED = "jobrun_source_truncated_responses_total"
STEPS_LOST = "jobrun_source_steps_lost_total"
UNMAPPED = "jobrun_source_unmapped_status_total"
POLLS = "jobrun_source_polls_total"
POLL_ERRORS = "jobrun_source_poll_errors_total"
FETCHED = "jobrun_source_runs_fetched_total"
MISSED_POLLS = "jobrun_exporter_scheduler_missed_polls_total"
DELAY = "jobrun_source_observation_delay_seconds"
OVERFLOW = "jobrun_exporter_series_overflow_total"
COLD_STARTS = "jobrun_exporter_state_cold_starts_total"
REQUESTS = "jobrun_source_api_requests_total"
REQUEST_DURATION = "jobrun_source_api_request_duration_seconds"
RETRIES = "jobrun_source_api_retries_total"
RATE_LIMIT_WAIT = "jobrun_source_rate_limit_wait_seconds_total"

FAMILIES: tuple[Family, ...] = (
    counter(RUNS, "Completed runs by result; every completed run is counted once.", "result"),
    histogram(RUN_DURATION, "How long completed runs took, from start to end.", "result"),
    histogram(QUEUE_DURATION, "How long completed runs waited before they started."),
    counter(RETRIED, "Attempts beyond the first, added when a run completes."),
    counter(RECOVERED, "Runs that succeeded after a failed attempt."),
    counter(ERRORS, "Failed runs by type of error.", "error_type"),
    labeled_gauge("jobrun_active_runs", "Active runs by state.", samples.active_runs, "state"),
    labeled_gauge(
        "jobrun_oldest_active_run_start_timestamp_seconds",
        "Earliest start of the active runs.",
        samples.oldest_active_starts,
        "state",
    ),
    labeled_gauge(
        "jobrun_last_run_status",
        "1 for the result of the run that completed last, 0 for the others; unchanged while a new run is active.",
        samples.last_run_status,
        "status",
    ),
    gauge(
        "jobrun_last_run_start_timestamp_seconds",
        "Start of the run that completed last.",
        samples.of_last_run(lambda run: run.start),
    ),
    gauge(
        "jobrun_last_run_end_timestamp_seconds",
        "End of the run that completed last.",
        samples.of_last_run(lambda run: run.end),
    ),
    gauge(
        "jobrun_last_run_duration_seconds",
        "How long the run that completed last took.",
        samples.of_last_run(lambda run: run.duration),
    ),
    gauge(
        "jobrun_last_success_timestamp_seconds",
        "End of the last run that succeeded.",
        lambda view: view.state.last_success,
    ),
    gauge(
        "jobrun_last_failure_timestamp_seconds",
        "End of the last run that failed.",
        lambda view: None if view.state.last_failure is None else view.state.last_failure.end,
    ),
    gauge(
        "jobrun_consecutive_failures",
        "Failed runs since the last success; canceled, skipped and unknown ones change nothing.",
        lambda view: view.state.streak,
    ),
    gauge(
        "jobrun_failing_since_timestamp_seconds",
        "End of the first failure since the last success; absent while the job does not fail.",
        lambda view: view.state.failing_since,
    ),
    labeled_gauge(
        "jobrun_last_failed_run_info",
        "The last run that failed; one series per job.",
        samples.last_failed_run,
        *("run_id", "run_url", "failed_step", "error_type"),
    ),
    counter(STEPS, "Steps of completed runs by result.", "step_name", "result"),
    counter(
        ROOT_FAILURES,
        "Completed runs in which this step failed first; steps that were skipped because of it do not count.",
        "step_name",
    ),
    histogram(STEP_DURATION, "How long steps took, from start to end.", "step_name"),
    labeled_gauge(
        "jobrun_last_run_steps",
        "Steps of the latest run whose steps are known, by result.",
        samples.last_run_steps,
        "result",
    ),
    labeled_gauge(
        "jobrun_job_info",
        "Details of the job as labels, including the labels of its objective; one series per job.",
        samples.job_info,
        *("job_id", "schedule", "team", "page", "stop_cause", "url"),
        more_labels=samples.configured_labels,
    ),
    gauge("jobrun_job_enabled", "Whether the job may run.", lambda view: view.state.job.enabled),
    gauge(
        "jobrun_job_discovered_timestamp_seconds",
        "When the exporter first saw the job.",
        lambda view: view.state.discovered,
    ),
    gauge(
        "jobrun_job_next_run_expected_timestamp_seconds",
        "When the next run should start, by the schedule or else as learned; absent if unknown.",
        lambda view: view.next_expected,
    ),
    gauge(
        "jobrun_job_freshness_objective_seconds",
        "Maximum age of the last success, as configured or else as learned.",
        lambda view: view.freshness,
    ),
    gauge(
        "jobrun_job_duration_budget_seconds",
        "Maximum duration of a run, as configured or else as learned.",
        lambda view: view.duration_budget,
    ),
    labeled_gauge(
        "jobrun_job_expectation_learned",
        "1 for next_run, freshness or duration_budget if it is learned from past runs; else absent.",
        samples.learned_expectations,
        "expectation",
        stability=Stability.EXPERIMENTAL,
    ),
    gauge(
        "jobrun_job_schedule_unparsed",
        "1 if the job's schedule is not valid, so that its next run is learned; else absent.",
        lambda view: 1 if view.unparsed else None,
    ),
    gauge(
        "jobrun_job_failures_to_page",
        "Consecutive failures after which the job pages: failures_to_page of its objective.",
        lambda view: view.failures_to_page,
        stability=Stability.EXPERIMENTAL,
    ),
    source_counter(
        UNOBSERVED, "Seconds in which completed runs were never read, because the API no longer shows them."
    ),
    source_counter(TRUNCATED, "Responses that the API truncated; the missing runs are requested again."),
    source_counter(STEPS_LOST, "Completed runs whose steps the API did not have."),
    source_counter(
        UNMAPPED, "Runs seen with a status that the exporter does not know, once per run and status.", "status"
    ),
    counter(
        OVERFLOW,
        "Series that were not created because there are too many; their events are counted under __other__.",
        "family",
        level=Level.EXPORTER,
    ),
    counter(
        COLD_STARTS,
        "Starts without a usable state (new, corrupt, or lost: too old), and losses of commits (rewound), by reason.",
        "reason",
        level=Level.EXPORTER,
    ),
    source_gauge("jobrun_source_up", "Whether the last poll read every readable scope.", lambda view: view.status.up),
    labeled_gauge(
        "jobrun_source_info",
        "Provider and API of a source, as labels.",
        samples.source_info,
        "provider",
        "api_url",
        level=Level.SOURCE,
    ),
    labeled_gauge(
        "jobrun_source_scopes",
        "Scopes by whether they can be read.",
        samples.scopes,
        "state",
        level=Level.SOURCE,
    ),
    source_gauge("jobrun_source_jobs", "Known jobs of a source.", lambda view: view.jobs if view.known else None),
    source_gauge(
        "jobrun_source_watermark_timestamp_seconds",
        "All completed runs up to this time are counted.",
        lambda view: view.watermark if view.known else None,
    ),
    source_gauge(
        "jobrun_source_last_poll_timestamp_seconds",
        "When the last poll ended, whatever its outcome.",
        lambda view: view.status.last_poll,
    ),
    source_gauge(
        "jobrun_source_last_success_timestamp_seconds",
        "When the last successful poll ended.",
        lambda view: view.status.last_success,
    ),
    source_gauge(
        "jobrun_source_last_poll_duration_seconds",
        "How long the last poll took.",
        lambda view: view.status.last_poll_duration,
    ),
    source_gauge(
        "jobrun_source_poll_interval_seconds",
        "Current interval between polls, which is longer while polls fail.",
        lambda view: view.interval,
    ),
    source_gauge(
        "jobrun_source_credential_expiry_timestamp_seconds",
        "When the credential in use expires.",
        lambda view: view.status.credential_expiry,
    ),
    source_gauge(
        "jobrun_source_step_fetches_pending",
        "Completed runs whose steps were not fetched yet.",
        lambda view: view.status.pending_steps,
    ),
    source_counter(POLLS, "Polls by outcome.", "outcome", zero_first=False, seeds=OUTCOMES),
    source_counter(POLL_ERRORS, "Errors of polls by reason.", "reason", zero_first=False, seeds=REASONS),
    source_counter(
        FETCHED,
        "Rows of runs by disposition, the meaning of the row.",
        "disposition",
        zero_first=False,
        seeds=tuple(map(str, Disposition)),
    ),
    histogram(
        DELAY,
        "Time from the end of a run until it was counted.",
        level=Level.SOURCE,
        zero_first=False,
        buckets=DELAY_BUCKETS,
    ),
    source_gauge(
        "jobrun_source_rate_limit_limit_requests",
        "The API's tightest rate limit.",
        lambda view: view.status.rate_limit.limit,
    ),
    source_gauge(
        "jobrun_source_rate_limit_remaining_requests",
        "Remaining requests of the API's tightest rate limit.",
        lambda view: view.status.rate_limit.remaining,
    ),
    source_gauge(
        "jobrun_source_rate_limit_reset_timestamp_seconds",
        "When the API's tightest rate limit resets.",
        lambda view: view.status.rate_limit.reset,
    ),
    source_counter(MISSED_POLLS, "Polls that came due while one was running.", zero_first=False, seeds=("",)),
    source_gauge(
        "jobrun_exporter_tracked_runs",
        "Active runs of a source.",
        lambda view: len(view.open_runs) if view.known else None,
    ),
    exporter_gauge(
        "jobrun_exporter_state_last_commit_timestamp_seconds",
        "When the state was last written.",
        lambda view: view.last_commit,
    ),
    exporter_gauge(
        "jobrun_exporter_state_size_bytes", "Size of the state on disk.", lambda view: view.state_size or None
    ),
    labeled_gauge(
        "jobrun_objective_jobs",
        "Jobs that an objective applies to; the label is its index in the config, from 0.",
        samples.objective_jobs,
        "objective",
        level=Level.EXPORTER,
    ),
    labeled_gauge(
        "jobrun_exporter_series",
        "Series served, by metric family.",
        samples.served_series,
        "family",
        level=Level.EXPORTER,
    ),
    exporter_gauge(
        "jobrun_exporter_series_limit",
        "The configured limit of series of jobs, metrics.max_series.",
        lambda view: view.series_limit,
    ),
    labeled_gauge(
        "jobrun_exporter_build_info",
        "Version, as labels.",
        samples.build_info,
        *("version", "revision", "python_version"),
        level=Level.PROCESS,
    ),
    process_row(
        "jobrun_exporter_config_last_reload_successful",
        Kind.GAUGE,
        "Whether the last reload of the config was applied.",
        lambda view: None if view.reload is None else view.reload.successful,
    ),
    process_row(
        "jobrun_exporter_config_last_reload_success_timestamp_seconds",
        Kind.GAUGE,
        "When a config was last applied.",
        lambda view: None if view.reload is None else view.reload.applied,
    ),
    process_row(
        "jobrun_exporter_state_commit_errors_total",
        Kind.COUNTER,
        "Failed writes of the state.",
        lambda view: view.commit_errors,
    ),
    process_row(
        "jobrun_exporter_replicas",
        Kind.GAUGE,
        "Replicas that share the state, as this one sees it; absent if the state is not shared.",
        lambda view: None if view.ownership is None else view.ownership.replicas,
        stability=Stability.EXPERIMENTAL,
    ),
    labeled_gauge(
        "jobrun_source_owner_info",
        "1 for each source that this replica polls.",
        samples.owned_sources,
        *("source", "replica"),
        level=Level.PROCESS,
        stability=Stability.EXPERIMENTAL,
    ),
    counter(
        "jobrun_source_ownership_changes_total",
        "How often this replica took over a source.",
        "source",
        level=Level.PROCESS,
        samples=samples.ownership_changes,
        stability=Stability.EXPERIMENTAL,
    ),
    process_row(
        "jobrun_exporter_lease_lost_total",
        Kind.COUNTER,
        "Sources that this replica lost without having handed them back.",
        lambda view: None if view.ownership is None else view.ownership.lost,
        stability=Stability.EXPERIMENTAL,
    ),
)

REQUEST_FAMILIES: tuple[Family, ...] = (
    request_row(REQUESTS, Kind.COUNTER, "Requests by endpoint and code.", "endpoint", "code"),
    request_row(
        REQUEST_DURATION,
        Kind.HISTOGRAM,
        "How long requests took, including the whole response.",
        "endpoint",
        buckets=REQUEST_BUCKETS,
    ),
    request_row(RETRIES, Kind.COUNTER, "Requests that were sent again."),
    request_row(RATE_LIMIT_WAIT, Kind.COUNTER, "Time that requests waited for the budget."),
)
"""Families about the process's own requests. The client library keeps them, so they start at 0 with each process."""
