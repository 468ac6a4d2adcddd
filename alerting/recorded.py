"""Recording rules over hours and days, and their alerts."""

from alerting import texts
from alerting.model import Alert, Group, Record
from alerting.promql import (
    DURATION_P95,
    FAILED,
    HOURS,
    JOB,
    NEWEST_WATERMARK,
    NEWEST_WATERMARK_QUERY,
    SERVED_SOURCE,
    SUCCEEDED_OR_FAILED,
    UNWATCHED_SOURCES,
    UNWATCHED_SOURCES_QUERY,
    condition,
    firing,
    from_newest_exporter,
    held,
    increase_in_hour,
    indent,
    sum_of_hours,
    unless_started,
)
from exporter.snapshot import conditions as limits

BUCKETS = "source_project_job_name_le:jobrun_run_duration_seconds_bucket:increase1h"
NATIVE_HISTOGRAMS = "source_project_job_name:jobrun_run_duration_seconds:increase1h"
ROOT_FAILURES_OF_HOUR = "source_project_job_name_step_name:jobrun_step_root_failures:increase1h"
SUCCEEDED = 'result="success"'


def increase_per_job(series: str, *labels: str) -> str:
    """Return the increase of a counter in an hour, one series per job and these labels."""
    return f"max by ({', '.join((JOB, *labels))}) (\n{indent(increase_in_hour(series), 2)}\n)"


def completed_runs(matcher: str, window: str) -> str:
    """Return the number of completed runs in a window of days, one series per job."""
    return f"sum by ({JOB}) (\n{indent(sum_of_hours(f'{HOURS}{{{matcher}}}', window), 2)}\n)"


HOUR_GROUP = Group(
    "jobrun-hours",
    (
        Record(HOURS, increase_per_job("jobrun_runs_total", "result")),
        Record(BUCKETS, increase_per_job('jobrun_run_duration_seconds_bucket{result="success"}', "le")),
        Record(
            NATIVE_HISTOGRAMS,
            f"""
            sum by ({JOB}) (
              increase(jobrun_run_duration_seconds{{result="success"}}[1h])
              and on ({SERVED_SOURCE})
              {NEWEST_WATERMARK_QUERY}
            )
            """,
            "If Prometheus stores the buckets as a native histogram (convert_classic_histograms_to_nhcb).",
        ),
        Record(ROOT_FAILURES_OF_HOUR, increase_per_job("jobrun_step_root_failures_total", "step_name") + " > 0"),
    ),
    "4m",
    """Windows of days are sums of recorded hours: summing raw samples would take tens of seconds with 1,000 jobs.
    They omit runs since the last full hour. In the first hour of a series they use the current value.
    Two exporters of one source count the same runs, so the larger count is used, never the sum. The interval is below
    the 5 minutes of Prometheus' lookback.""",
)


def ratios(window: str) -> tuple[Record, Record]:
    """Return the success ratio of a window, and its burn: the ratio of failures, divided by the 1 % that is allowed."""
    name = f"source_project_job_name:jobrun_runs:success_ratio_{window}"
    return (
        Record(
            name,
            f"{completed_runs(SUCCEEDED, window)}\n/ (\n{indent(completed_runs(SUCCEEDED_OR_FAILED, window), 2)} > 0\n)",
        ),
        Record(f"source_project_job_name:jobrun_runs:error_budget_burn_{window}", f"(1 - {name}) / 0.01"),
    )


def quantile(of: float) -> str:
    """Return a quantile of the durations of seven days, of classic or native histograms."""
    return f"""(
  histogram_quantile({of}, sum by ({JOB}, le) (
{indent(sum_of_hours(BUCKETS, "7d"), 4)}
  ))
  or
  histogram_quantile({of}, sum by ({JOB}) (
{indent(sum_of_hours(NATIVE_HISTOGRAMS, "7d"), 4)}
  ))
)"""


DAY_GROUP = Group(
    "jobrun-days",
    (
        *ratios("1d"),
        *ratios("7d"),
        *ratios("30d"),
        Record("source_project_job_name:jobrun_run_duration_seconds:p50_7d", f"{quantile(0.5)} >= 0"),
        Record(
            DURATION_P95,
            f"""{quantile(0.95)}
and on ({JOB}) (
  sum by ({JOB}) (
{indent(sum_of_hours(BUCKETS + '{le="+Inf"}', "7d"), 4)}
  )
  or
  histogram_count(sum by ({JOB}) (
{indent(sum_of_hours(NATIVE_HISTOGRAMS, "7d"), 4)}
  ))
) > 4.5""",
            "The p95 needs five successes. Summed increases may be slightly less than five.",
        ),
    ),
    "4m",
)

STEP_FAILURES_OF_DAY = f"""max by ({JOB}, step_name) (
  sum_over_time({ROOT_FAILURES_OF_HOUR}[1d:1h] offset -1s) >= {limits.STEP_RUNS}
  or
  label_replace({ROOT_FAILURES_OF_HOUR} >= {limits.STEP_RUNS}, "hour", "now", "", "")
)"""
"""Failures of a step in a day, or in the current hour if those are more.

The label `hour` makes the two sides of `or` differ, so that `max` gets both.
"""
RUNS_OF_DAY = "source_project_job_name:jobrun_runs:increase1d"


def without_other_groups(expression: str) -> str:
    """Replace the recorded series of other groups by their queries. Groups are evaluated at different times."""
    return expression.replace(UNWATCHED_SOURCES, f"(\n{indent(UNWATCHED_SOURCES_QUERY, 2)}\n)").replace(
        NEWEST_WATERMARK, NEWEST_WATERMARK_QUERY
    )


FAILURE_REPORTED = "\nor\n".join(
    (firing("JobrunLastRunFailed"), f"last_over_time({firing('JobrunFailingRepeatedly')}[1d])")
)

STEP_GROUP = Group(
    "jobrun-steps",
    (
        Record(RUNS_OF_DAY, completed_runs(SUCCEEDED_OR_FAILED, "1d"), "Both alerts below need it."),
        Record(
            held("step_failing"),
            without_other_groups(
                condition(
                    "step_failing",
                    f"""max by ({JOB}, team, page, step_name, run_id, run_url) (
  (
{indent(STEP_FAILURES_OF_DAY, 4)}
    > on ({JOB}) group_left ()
    {limits.STEP_SHARE} * {RUNS_OF_DAY}
  )
  * on ({JOB}) group_left (run_id, run_url, team, page)
  (
    max by ({JOB}, run_id, run_url) ({from_newest_exporter("jobrun_last_failed_run_info")})
    * on ({JOB}) group_left (team, page)
    max by ({JOB}, team, page) ({from_newest_exporter("jobrun_job_info")})
  )
)""",
                )
            ),
        ),
        Alert(
            name="JobrunStepFailing",
            expression=unless_started("JobrunStepFailing", held("step_failing"), JOB, FAILURE_REPORTED),
            severity=texts.WARNING,
            blank=("run_id", "run_url"),
            summary=f"Step {texts.safe('$labels.step_name')} of {texts.JOB} broke {{{{ $value }}}} runs in a day",
            description=(
                f"In the last day step {texts.safe('$labels.step_name')} was the first to fail in {{{{ $value }}}} "
                "runs of "
                f"{texts.JOB}, more than a tenth of all. The last failed run is {texts.RUN}."
            ),
            extra={
                "run_id": "{{ $labels.run_id }}",
                "run_url": "{{ $labels.run_url }}",
                "failed_step": "{{ $labels.step_name }}",
            },
            links=texts.of_job("JobrunStepFailing", "&result=failure"),
            why="""For steps that fail often, even if runs in between succeed. The alert does not start while
            JobrunLastRunFailed or JobrunFailingRepeatedly fires, or within a day after the latter.""",
        ),
        Record(
            held("failure_ratio_high"),
            without_other_groups(
                condition(
                    "failure_ratio_high",
                    f"""max by ({JOB}, team, page) (
  (
{indent(completed_runs(FAILED, "1d"), 4)}
    / on ({JOB}) ({RUNS_OF_DAY} >= {limits.RATIO_RUNS})
    > {limits.RATIO}
  )
  * on ({JOB}) group_left (team, page)
  max by ({JOB}, team, page) ({from_newest_exporter("jobrun_job_info")})
)""",
                )
            ),
        ),
        Alert(
            name="JobrunFailureRatioHigh",
            expression=unless_started(
                "JobrunFailureRatioHigh",
                held("failure_ratio_high"),
                JOB,
                f"{FAILURE_REPORTED}\nor\n{firing('JobrunStepFailing')}",
            ),
            severity=texts.WARNING,
            summary=f"{{{{ humanizePercentage $value }}}} of the runs of {texts.JOB} failed in a day",
            description=(
                f"In the last day {{{{ humanizePercentage $value }}}} of the runs of {texts.JOB} failed. The limit "
                f"is {limits.RATIO:.0%}, for jobs with at least {limits.RATIO_RUNS} runs. Runs in between succeeded."
            ),
            links=texts.of_job("JobrunFailureRatioHigh", "&result=failure"),
            why="For jobs that run often, fail often and recover each time.",
        ),
    ),
    "2m",
    "These rules query a whole day, so a delay of 2 minutes does not matter.",
)
