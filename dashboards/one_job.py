"""What can be asked of the one job that its dashboard shows."""

from collections.abc import Sequence
from typing import Final

from dashboards.jobs import Jobs
from dashboards.words import RESULTS, Word

JOBS = Jobs('source="$source", project="$project", job_name="$job_name"')
SOURCE = 'source="$source"'
STEP_DURATION = "jobrun_step_duration_seconds"
RUN_DURATION = "jobrun_run_duration_seconds"


def of_source(metric: str) -> str:
    """A metric of the job's source as one series without labels."""
    return f"max({metric}{{{JOBS.scrape}, {SOURCE}}})"


def one(metric: str, more: str = "") -> str:
    """A gauge of the job as one series without labels."""
    return f"max({JOBS.series(metric, more)})"


def recorded(name: str) -> str:
    """A recorded series of the job, without labels."""
    return f"max({JOBS.recorded(name)})"


def total(metric: str, window: str, *labels: str, kept: str = "", more: str = "") -> str:
    """The whole rise of a counter in a window, by the label kept."""
    by = f" by ({kept})" if kept else ""
    return f"sum{by} (round({JOBS.rise(metric, window, *labels, more=more)}))"


def worst(words: Sequence[Word], metric: str, label: str) -> str:
    """The largest code of the words that were true within a step: nothing short is left out, the worst wins."""

    def code(word: Word) -> str:
        series = JOBS.series(metric, f'{label}="{word.word}"')
        return f"{word.code} * (max by ({label}) (max_over_time({series}[$__interval])) > bool 0)"

    return f"max({' or '.join(code(word) for word in words)})"


UP = of_source("jobrun_source_up")
ENABLED = one("jobrun_job_enabled")
FRESH = f"on () ({UP} == 1)"
"""What is shown of a job is true now only while its source is read."""
BUDGET = one("jobrun_job_duration_budget_seconds")
LAST_DURATION = one("jobrun_last_run_duration_seconds")
RUNNING_FOR = f"max({JOBS.running_for})"
STREAK_NOW = one("jobrun_consecutive_failures")
EXPECTED = one("jobrun_job_next_run_expected_timestamp_seconds")
OVERDUE = f"max({JOBS.series('jobrun:overdue:held')})"
LIMITS: Final = {
    "age of last success": f"clamp_min(max({JOBS.age}), 0) / {one('jobrun_job_freshness_objective_seconds')}",
    "duration, open run": f"{RUNNING_FOR} / {BUDGET}",
    "duration, last run": f"{LAST_DURATION} / {BUDGET}",
    "duration, p95 of 7 days": f"{recorded('jobrun_run_duration_seconds:p95_7d')} / {BUDGET}",
    "error budget, 30 days": f"max({JOBS.errors_used})",
}
"""What is limited → the share of the limit that is used."""
GRAVE, STALE = 50, 100
"""Added to the code of the last result: it is one of many failures, or nobody knows whether it is still the last."""


def is_status(word: Word) -> str:
    """The matcher of a status."""
    return f'status="{word.word}"'


def last_result() -> str:
    """The code of the result of the run that ended last, and how much it is to be believed."""
    series = (
        f"{each.code} * max by (status) ({JOBS.series('jobrun_last_run_status', is_status(each))})" for each in RESULTS
    )
    repeatedly = JOBS.series("jobrun:failing_repeatedly:held")
    grave = f"{GRAVE} * (0 * max({repeatedly}) + 1 or 0 * {UP})"
    down, off = f"({UP} == bool 0)", f"({ENABLED} == bool 0 or 0 * {UP})"
    return f"max({' or '.join(series)}) + {grave} + {STALE} * clamp_max({down} + {off}, 1)"
