"""All metric families that show the state: a row each.

A gauge names the function that makes its samples. A counter or histogram does not: its series are those that the state
holds under its name, so that a new counter is a new row here and nothing else.
"""

import enum
from collections.abc import Callable

import msgspec

from exporter.metrics.jobview import (
    JobView,
    Rows,
    active_runs,
    configured_labels,
    job_info,
    last_failed_run,
    last_run_status,
    last_run_steps,
    learned_expectations,
    of_last_run,
    oldest_active_starts,
    single,
)


class Kind(enum.StrEnum):
    """The types of metric families, in the words of the exposition formats."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Level(enum.StrEnum):
    """What the series of a family belong to; the labels that follow from it come first."""

    JOB = "job"
    SOURCE = "source"
    EXPORTER = "exporter"


LEVEL_LABELS = {Level.JOB: ("source", "project", "job_name"), Level.SOURCE: ("source",), Level.EXPORTER: ()}


class Family(msgspec.Struct, frozen=True):
    """One metric family.

    Attributes:
        name: As exported, `_total` of a counter included.
        kind: Its type.
        help: One sentence for people.
        labels: Its labels beyond those of its level.
        rows: What a gauge's samples are; None for counters and histograms.
        level: What its series belong to.
        more_labels: Names of labels behind these that a job's view decides.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    rows: Rows | None = None
    level: Level = Level.JOB
    more_labels: Callable[[JobView], tuple[str, ...]] | None = None

    def labels_of(self, view: JobView) -> tuple[str, ...]:
        """Return the labels of a job's series beyond those of its level."""
        return self.labels if self.more_labels is None else self.labels + self.more_labels(view)

    @property
    def all_labels(self) -> tuple[str, ...]:
        """Its labels, those of its level first."""
        return LEVEL_LABELS[self.level] + self.labels


def counter(name: str, help_text: str, *labels: str, level: Level = Level.JOB) -> Family:
    """A row whose series the state holds under this name."""
    return Family(name, Kind.COUNTER, help_text, labels, level=level)


def histogram(name: str, help_text: str, *labels: str) -> Family:
    """A row whose series the state holds under this name."""
    return Family(name, Kind.HISTOGRAM, help_text, labels)


def gauge(name: str, help_text: str, rows: Rows, *labels: str) -> Family:
    """A row whose samples are made of a view of the job."""
    return Family(name, Kind.GAUGE, help_text, labels, rows)


RUNS = "jobrun_runs_total"
RUN_DURATION = "jobrun_run_duration_seconds"
QUEUE_DURATION = "jobrun_run_queue_duration_seconds"
ERRORS = "jobrun_run_errors_total"
STEPS = "jobrun_steps_total"
STEP_DURATION = "jobrun_step_duration_seconds"

FAMILIES: tuple[Family, ...] = (
    counter(RUNS, "Runs that ended, by result; every ending is counted once.", "result"),
    histogram(RUN_DURATION, "How long ended runs took, from start to end.", "result"),
    histogram(QUEUE_DURATION, "How long ended runs waited before they started."),
    counter("jobrun_run_retries_total", "Attempts beyond the first, added when a run ends."),
    counter("jobrun_runs_recovered_total", "Runs that ended well after a failed attempt."),
    counter(ERRORS, "Failed runs by type of error.", "error_type"),
    gauge("jobrun_active_runs", "Runs that have not ended, by what they do.", active_runs, "state"),
    gauge(
        "jobrun_oldest_active_run_start_timestamp_seconds",
        "Earliest start of the runs that have not ended.",
        oldest_active_starts,
        "state",
    ),
    gauge(
        "jobrun_last_run_status",
        "1 for the result of the run that ended last, 0 for the others; unchanged while a new run goes on.",
        last_run_status,
        "status",
    ),
    gauge(
        "jobrun_last_run_start_timestamp_seconds",
        "Start of the run that ended last.",
        of_last_run(lambda run: run.start),
    ),
    gauge("jobrun_last_run_end_timestamp_seconds", "End of the run that ended last.", of_last_run(lambda run: run.end)),
    gauge(
        "jobrun_last_run_duration_seconds",
        "How long the run that ended last took.",
        of_last_run(lambda run: run.duration),
    ),
    gauge(
        "jobrun_last_success_timestamp_seconds",
        "End of the last run that succeeded.",
        single(lambda view: view.state.last_success),
    ),
    gauge(
        "jobrun_last_failure_timestamp_seconds",
        "End of the last run that failed.",
        single(lambda view: None if view.state.last_failure is None else view.state.last_failure.end),
    ),
    gauge(
        "jobrun_consecutive_failures",
        "Failed runs since the last success; cancelled, skipped and unknown ones change nothing.",
        single(lambda view: view.state.streak),
    ),
    gauge(
        "jobrun_failing_since_timestamp_seconds",
        "End of the first failure since the last success; absent while the job is well.",
        single(lambda view: view.state.failing_since),
    ),
    gauge(
        "jobrun_last_failed_run_info",
        "The last run that failed; one series a job.",
        last_failed_run,
        *("run_id", "run_url", "failed_step", "error_type"),
    ),
    counter(STEPS, "Steps of ended runs, by result.", "step_name", "result"),
    counter(
        "jobrun_step_root_failures_total",
        "Ended runs in which this step failed first; steps skipped after it are not blamed.",
        "step_name",
    ),
    histogram(STEP_DURATION, "How long steps took, from start to end.", "step_name"),
    gauge(
        "jobrun_last_run_steps",
        "Steps of the latest run whose steps are known, by result.",
        last_run_steps,
        "result",
    ),
    Family(
        "jobrun_job_info",
        Kind.GAUGE,
        "What is known of the job, and the labels that objectives add; one series per job.",
        ("job_id", "schedule", "team", "page", "stop_cause", "url"),
        job_info,
        more_labels=configured_labels,
    ),
    gauge("jobrun_job_enabled", "Whether the job may run.", single(lambda view: view.state.job.enabled)),
    gauge(
        "jobrun_job_discovered_timestamp_seconds",
        "When the exporter first knew the job.",
        single(lambda view: view.state.discovered),
    ),
    gauge(
        "jobrun_job_next_run_expected_timestamp_seconds",
        "When the next run should start, by its schedule or else by the usual interval; absent when unknown.",
        single(lambda view: view.next_expected),
    ),
    gauge(
        "jobrun_job_freshness_objective_seconds",
        "Largest age of the last success, as configured or else as learned.",
        single(lambda view: view.freshness),
    ),
    gauge(
        "jobrun_job_duration_budget_seconds",
        "How long a run may take, as configured or else as learned.",
        single(lambda view: view.duration_budget),
    ),
    gauge(
        "jobrun_job_expectation_learned",
        "1 for next_run, freshness or duration_budget, where it is learned from the job's runs alone; else absent.",
        learned_expectations,
        "expectation",
    ),
    gauge(
        "jobrun_job_schedule_unparsed",
        "1 if the job's schedule is not understood, so that its next run can only be learned; else absent.",
        single(lambda view: 1 if view.unparsed else None),
    ),
    gauge(
        "jobrun_job_failures_to_page",
        "Failed runs in a row after which somebody is paged: failures_to_page of the job's objective.",
        single(lambda view: view.failures_to_page),
    ),
    counter(
        "jobrun_source_unobserved_seconds_total",
        "Seconds in which endings were never read, because the API no longer shows them.",
        level=Level.SOURCE,
    ),
    counter(
        "jobrun_source_truncated_responses_total",
        "Answers that the API had trimmed; they are asked for again in parts.",
        level=Level.SOURCE,
    ),
    counter(
        "jobrun_source_steps_lost_total",
        "Ended runs whose steps the API did not have.",
        level=Level.SOURCE,
    ),
    counter(
        "jobrun_source_unmapped_status_total",
        "Runs seen with a status word that the exporter does not know, once a run and status.",
        "status",
        level=Level.SOURCE,
    ),
    counter(
        "jobrun_exporter_series_overflow_total",
        "Series that were not made because there are too many; their events are counted under __other__.",
        "family",
        level=Level.EXPORTER,
    ),
    counter(
        "jobrun_exporter_state_cold_starts_total",
        "Starts without a usable state: new (no file), lost (beyond what the APIs show), corrupt (set aside).",
        "reason",
        level=Level.EXPORTER,
    ),
)
