"""PromQL about the one job that the dashboard *Job* shows."""

from collections.abc import Sequence
from typing import Final

from dashboards.jobs import Jobs, window_of
from dashboards.problems import MAY_PAGE
from dashboards.words import RESULTS, Word

JOBS = Jobs('source="$source", project="$project", job_name="$job_name"')
SOURCE = 'source="$source"'
STEP_DURATION = "jobrun_step_duration_seconds"
RUN_DURATION = "jobrun_run_duration_seconds"


def of_source(metric: str) -> str:
    """Return a metric of the job's source as one series without labels."""
    return f"max({metric}{{{JOBS.scrape}, {SOURCE}}})"


def one(metric: str, more: str = "") -> str:
    """Return a gauge of the job as one series without labels."""
    return f"max({JOBS.series(metric, more)})"


def recorded(name: str) -> str:
    """Return a recorded series of the job, without labels."""
    return f"max({JOBS.recorded(name)})"


def total(metric: str, window: str, *labels: str, kept: str = "", more: str = "") -> str:
    """Return the increase of a counter in a window, one value per value of the label `kept`."""
    by = f" by ({kept})" if kept else ""
    return f"sum{by} (round({JOBS.rise(metric, window, *labels, more=more)}))"


def worst(words: Sequence[Word], metric: str, label: str) -> str:
    """Return the code of the worst word in each interval of a graph, so that a short bad state is visible."""

    def code(word: Word) -> str:
        series = JOBS.series(metric, f'{label}="{word.word}"')
        return f"{word.code} * (max by ({label}) (max_over_time({series}{window_of('$__interval')})) > bool 0)"

    return f"max({' or '.join(code(word) for word in words)})"


def in_step(function: str, metric: str) -> str:
    """Apply a function like `max_over_time` to each interval of a graph, and drop all labels."""
    return f"max({function}({metric}{window_of('$__interval')}))"


UP = of_source("jobrun_source_up")
ENABLED = one("jobrun_job_enabled")
FRESH = f"on () ({UP} == 1)"
"""Gauges of a job are current only while its source is up."""
BUDGET = one("jobrun_job_duration_budget_seconds")
LAST_DURATION = one("jobrun_last_run_duration_seconds")
RUNNING_FOR = f"max({JOBS.running_for})"
STREAK_NOW = one("jobrun_consecutive_failures")
EXPECTED = one("jobrun_job_next_run_expected_timestamp_seconds")
OVERDUE = f"max({JOBS.series('jobrun:overdue:held')})"
PAGING = f"max({JOBS.series('jobrun:failing_repeatedly:held', MAY_PAGE)})"
"""Has a value while the job has failed so often in a row that it pages."""
STUCK = f"max({JOBS.series('jobrun:run_stuck:held')})"
LIMITS: Final = {
    "age of last success": f"clamp_min(max({JOBS.age}), 0) / {one('jobrun_job_freshness_objective_seconds')}",
    "duration, active run": f"{RUNNING_FOR} / {BUDGET}",
    "duration, last run": f"{LAST_DURATION} / {BUDGET}",
    "duration, p95 of 7 days": f"{recorded('jobrun_run_duration_seconds:p95_7d')} / {BUDGET}",
    "error budget, 30 days": f"max({JOBS.errors_used})",
}
"""What is measured, and the fraction of its limit that is used."""
PAGED, OUTDATED = 50, 100
"""Added to the code of the last result. PAGED: failures page. OUTDATED: the source is down or the job is disabled."""


KNOWN_JOB = f"on () {one('jobrun_job_info')}"
PAGES: Final = " (pages)"


def marked(expression: str, condition: str, mark: str) -> str:
    """Set the label "is" of an expression to a mark while a condition has a result."""
    return (
        f'label_replace({expression} and on () {condition}, "is", "{mark}", "", "")'
        f" or ({expression} unless on () {condition})"
    )


def is_status(word: Word) -> str:
    """Return the matcher of a status."""
    return f'status="{word.word}"'


def last_result() -> str:
    """Return the code of the last result, plus PAGED and OUTDATED."""
    series = (
        f"{each.code} * max by (status) ({JOBS.series('jobrun_last_run_status', is_status(each))})" for each in RESULTS
    )
    paging = f"{PAGED} * (0 * {PAGING} + 1 or 0 * {UP})"
    down, off = f"({UP} == bool 0)", f"({ENABLED} == bool 0 or 0 * {UP})"
    return f"max({' or '.join(series)}) + {paging} + {OUTDATED} * clamp_max({down} + {off}, 1)"
