"""Parts of expressions that many rules use.

The labels `job` and `source` identify a source: two teams with equal source names have two scrape jobs. Several
exporters of one source are instances of one scrape job; the one with the newest watermark is used.
"""

JOB = "job, source, project, job_name"
"""The labels of a job."""
SERVED_JOB = "job, instance, source, project, job_name"
"""The labels of a job in the series of one exporter."""
SERVED_SOURCE = "job, instance, source"
"""The labels of a source in the series of one exporter."""
NEWEST_WATERMARK_QUERY = "topk by (job, source) (1, jobrun_source_watermark_timestamp_seconds)"
NEWEST_WATERMARK = "job_instance_source:jobrun_source_watermark_timestamp_seconds:believed"
"""The recorded result of `NEWEST_WATERMARK_QUERY`."""
LAST_SEEN = "job_instance_source:jobrun_source_last_seen:timestamp"
UNWATCHED_SOURCES = "job_source:jobrun_source_blind:last_seen"
"""The recorded result of `UNWATCHED_SOURCES_QUERY`."""
GONE = "job_source:jobrun_source_gone:last_seen"
RUN_LIMIT = "source_project_job_name:jobrun_run_duration_seconds:limit"
LAST_ENABLED = "source_project_job_name:jobrun_job_enabled:last_seen"
HOURS = "source_project_job_name_result:jobrun_runs:increase1h"
DURATION_P95 = "source_project_job_name:jobrun_run_duration_seconds:p95_7d"
SUCCEEDED_OR_FAILED = 'result=~"success|failure|error|timeout"'
FAILED = 'result=~"failure|error|timeout"'
PAGE_DELAY = 240
"""Seconds that the expression of a paging alert waits. Its `for` adds a minute.

A restart of Prometheus starts each `for` below 10 minutes again. Alertmanager resolves an alert that it has not received
for 4 minutes, so a longer `for` would report a false end, and then the same problem again.
"""
UNITS = {"d": 86400, "h": 3600, "m": 60}
SERVED_SOURCES = (
    "(jobrun_source_up or jobrun_source_poll_interval_seconds or jobrun_source_watermark_timestamp_seconds)"
)
"""Series of a source, one of which an exporter serves as soon as it starts."""


UNWATCHED_SOURCES_QUERY = f"""(
  {LAST_SEEN} unless on (job, instance) jobrun_exporter_build_info
  or
  {LAST_SEEN} and on (job, instance, source) {SERVED_SOURCES}
)
unless on (job, source)
jobrun_source_watermark_timestamp_seconds"""
"""Sources of which nothing is known now, because their exporter is gone or starting."""


def held(name: str) -> str:
    """Return the name of the recorded condition of an alert."""
    return f"jobrun:{name}:held"


def condition(name: str, live: str, *also: str) -> str:
    """Return a condition that does not change while its source is not watched.

    Args:
        name: Name of the condition.
        live: The current condition, with labels that include `job` and `source`.
        also: More terms, joined by `or`.
    """
    more = "".join(f"\nor\n{each}" for each in also)
    return f"{live}{more}\nor\n{held(name)} and on (job, source) {UNWATCHED_SOURCES}"


def of_job(expression: str, *labels: str, info: str = "jobrun_job_info", names: str = "team, page") -> str:
    """Return an expression with one series per job, with the job's team and page. Its input has one per exporter."""
    by = ", ".join((JOB, names, *labels))
    return f"""max by ({by}) (
  (
{indent(expression, 4)}
  )
  * on ({SERVED_JOB}) group_left ({names})
{indent(info, 2)}
)"""


def from_newest_exporter(expression: str) -> str:
    """Return the series of the exporter whose watermark is the newest."""
    return f"{expression}\nand on ({SERVED_SOURCE})\n{NEWEST_WATERMARK}"


def since(timestamps: str) -> str:
    """Return the seconds between timestamps of a job and the watermark."""
    return f"{NEWEST_WATERMARK}\n- on ({SERVED_SOURCE}) group_right ()\n{timestamps}"


def firing(alert: str, more: str = "") -> str:
    """Return the selector of an alert that fires."""
    return f'ALERTS{{alertname="{alert}", alertstate="firing"{more}}}'


def unless_started(alert: str, expression: str, on: str, others: str) -> str:
    """Return an alert that does not start while one of `others` is true. An alert that already fires continues.

    Alertmanager's inhibition is not used: it does not send the end of an inhibited alert, and then takes the next
    problem for the old one.
    """
    gate = f"(\n{indent(others, 2)}\n) unless on ({on}) {firing(alert)}"
    return f"{expression}\nunless on ({on}) (\n{indent(gate, 2)}\n)"


def increase(counter: str, seconds: int) -> str:
    """Return the increase of a counter in a window. The first value of a series does not count.

    PromQL's `increase()` extrapolates, and some servers also count the first value of a series.
    """
    return f"last_over_time({counter}[{window(seconds)}]) - min_over_time({counter}[{window(seconds)}])"


def window(seconds: int) -> str:
    """Return the length of a range, in the largest unit that divides it."""
    unit, length = next((unit, length) for unit, length in UNITS.items() if seconds % length == 0)
    return f"{seconds // length}{unit}"


def increase_in_hour(series: str) -> str:
    """Return the exact increase of a counter in an hour, so that 24 hours add up to a day.

    The result is the difference to the value an hour ago. A series that is younger, or was reset, counts from its
    lowest value.
    """
    now, before = f"last_over_time({series}[1h])", f"last_over_time({series}[1h] offset 1h)"
    return f"{now} - {before} > 0\nor\n{now} - min_over_time({series}[1h])"


def sum_of_hours(series: str, window: str) -> str:
    """Return the sum of recorded hours, or the current hour if no full hour is recorded yet.

    The window is shifted by a second. Otherwise the hours at its two ends could both be counted.
    """
    return f"sum_over_time({series}[{window}:1h] offset -1s)\nor\n{series}"


def indent(text: str, by: int) -> str:
    """Return a text with each line indented."""
    return "\n".join(" " * by + line for line in text.split("\n"))
