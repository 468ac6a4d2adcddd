"""The dashboard of one job: how it is, how it was, how long it takes, and which steps fail."""

from collections.abc import Sequence
from typing import Final

from dashboards.jobs import JOB, Jobs
from dashboards.model import Dashboard, Json, Row, datasource_variable, label_variable
from dashboards.panels import Column, buckets, called, instant, listed, over_time, panel
from dashboards.words import (
    BAD,
    FAILED,
    GOOD,
    LATE,
    NEUTRAL,
    NOTICE,
    ON_TIME,
    QUIET,
    REDS,
    RESULTS,
    SHARE_USED,
    STATES,
    STREAK,
    SUCCESS_RATIO,
    WARNING,
    Word,
    coded,
    fixed,
    override,
    painted,
    steps,
    text_of,
)

JOBS = Jobs('source="$source", project="$project", job_name="$job_name"')
TO_RUN = ("Open the run", "${__data.fields.run_url:raw}")
TO_JOB = ("Open the job in its system", "${__data.fields.url:raw}")
NOT_TOLD: Final[Json] = {"noValue": "not told"}


def worst(words: Sequence[Word], metric: str, label: str) -> str:
    """The largest code of the words that were true within a step: nothing short is left out, the worst wins."""

    def code(word: Word) -> str:
        series = JOBS.series(metric, f'{label}="{word.word}"')
        return f"{word.code} * (max by ({label}) (max_over_time({series}[$__interval])) > bool 0)"

    return f"max({' or '.join(code(word) for word in words)})"


def one(metric: str, more: str = "") -> str:
    """A gauge of the job as one series without labels."""
    return f"max({JOBS.series(metric, more)})"


def recorded(name: str) -> str:
    """A recorded series of the job, without labels."""
    return f"max({JOBS.recorded(name)})"


def quantile(share: float, metric: str, window: str, *labels: str, kept: str = "") -> str:
    """A quantile of a histogram's rise in a window, over all labels but those kept."""
    by = f"le, {kept}" if kept else "le"
    return f"histogram_quantile({share}, sum by ({by}) ({JOBS.rise(f'{metric}_bucket', window, 'le', *labels)}))"


def total(metric: str, window: str, *labels: str, kept: str = "", more: str = "") -> str:
    """The whole rise of a counter in a window, by the label kept."""
    by = f" by ({kept})" if kept else ""
    return f"sum{by} (round({JOBS.rise(metric, window, *labels, more=more)}))"


RUN_DURATION = "jobrun_run_duration_seconds"
BUDGET = one("jobrun_job_duration_budget_seconds")
LAST_DURATION = one("jobrun_last_run_duration_seconds")
START = one("jobrun_oldest_active_run_start_timestamp_seconds", 'state="executing"')
RUNNING_FOR = f"(time() - {START})"
AGE = f"(time() - {one('jobrun_last_success_timestamp_seconds')})"
LIMITS: Final = {
    "age of last success": f"{AGE} / {one('jobrun_job_freshness_objective_seconds')}",
    "duration, run that goes on": f"{RUNNING_FOR} / {BUDGET}",
    "duration, last run": f"{LAST_DURATION} / {BUDGET}",
    "duration, p95 of 7 days": f"{recorded('jobrun_run_duration_seconds:p95_7d')} / {BUDGET}",
    "error budget, 30 days": recorded("jobrun_runs:error_budget_burn_30d"),
}
"""What is limited → the share of the limit that is used."""
EXPECTED = "jobrun_job_next_run_expected_timestamp_seconds"
OVERDUE = f"(count({JOBS.overdue}) or 0 * count({JOBS.series(EXPECTED)}))"


def last_result() -> str:
    """The code of the result of the run that ended last."""
    series = (f"{each.code} * {JOBS.each('jobrun_last_run_status', 'status', more=of(each))}" for each in RESULTS)
    return f"max({' or '.join(series)})"


def of(word: Word) -> str:
    """The matcher of a status."""
    return f'status="{word.word}"'


NOW = Row(
    title="Now",
    panels=(
        panel(
            "stat",
            "Last result",
            "How the run that ended last ended; unchanged while a new one goes on.",
            instant(last_result()),
            size=(3, 3),
            mappings=[text_of((0, "none yet", QUIET)), coded(RESULTS)],
        ),
        panel(
            "stat",
            "Failures",
            "Failed runs since the last success. Cancelled, skipped and unknown ones change nothing.",
            instant(one("jobrun_consecutive_failures")),
            size=(3, 3),
            thresholds=STREAK,
        ),
        panel(
            "stat",
            "Overdue",
            "Whether the expected run has not begun, although everything up to that time has been read.",
            instant(OVERDUE),
            size=(3, 3),
            mappings=[text_of((0, "no", GOOD), (1, "overdue", WARNING))],
            defaults={"noValue": "not known"},
        ),
        panel(
            "stat",
            "Next run",
            "By the schedule of the job or of the configuration, else by its usual interval.",
            instant(f"1000 * {one(EXPECTED)}"),
            size=(3, 3),
            unit="dateTimeFromNow",
            defaults={"noValue": "not known"},
            thresholds=NEUTRAL,
            options={"colorMode": "value"},
        ),
        panel(
            "stat",
            "Running",
            "How long the oldest run that goes on has been running.",
            instant(f"{RUNNING_FOR} or 0 * {one('jobrun_active_runs')}"),
            size=(3, 3),
            unit="s",
            mappings=[text_of((0, "not running", "text"))],
            defaults={"decimals": 1},
            thresholds=NEUTRAL,
            options={"colorMode": "value"},
        ),
        panel(
            "stat",
            "Last run",
            "How long the run that ended last took.",
            instant(LAST_DURATION),
            size=(3, 3),
            unit="s",
            defaults={"decimals": 1, **NOT_TOLD},
            thresholds=NEUTRAL,
            options={"colorMode": "value"},
        ),
        panel(
            "stat",
            "Succeeded",
            "When a run last succeeded.",
            instant(f"1000 * {one('jobrun_last_success_timestamp_seconds')}"),
            size=(3, 3),
            unit="dateTimeFromNow",
            defaults={"noValue": "never seen"},
            thresholds=NEUTRAL,
            options={"colorMode": "value"},
        ),
        panel(
            "stat",
            "30 days",
            "Share of runs that succeeded; cancelled and skipped ones count neither way. Needs the recording rules.",
            instant(recorded("jobrun_runs:success_ratio_30d")),
            size=(3, 3),
            unit="percentunit",
            thresholds=SUCCESS_RATIO,
            defaults={"decimals": 1},
        ),
        panel(
            "gauges",
            "How much of each limit is used",
            "Against the freshness objective, the duration budget and an error budget of 1 % over 30 days. "
            "Orange from four fifths, red when it is used up. What has no objective is not shown.",
            *(instant(expression, name) for name, expression in LIMITS.items()),
            size=(10, 6),
            unit="percentunit",
            thresholds=SHARE_USED,
            defaults={"max": 1, "decimals": 0},
            overrides=called(LIMITS),
        ),
        panel(
            "table",
            "The run that failed last",
            "Which run failed last, where, and why; the run leads to its page.",
            listed(
                f"1000 * {JOBS.last_failure}"
                f" * on ({JOB}) group_left () {JOBS.each('jobrun_last_failure_timestamp_seconds')}"
            ),
            size=(14, 3),
            defaults={"noValue": "-"},
            columns=(
                Column(field="Value", title="Ended", unit="dateTimeFromNow", width=140),
                Column(field="failed_step", title="Failed step", width=170),
                Column(field="error_type", title="Error", width=120),
                Column(field="run_id", title="Run", link=TO_RUN),
                Column(field="run_url"),
            ),
        ),
        panel(
            "table",
            "The job",
            "What is known of the job; its id leads to its page in its system.",
            listed(f"max by (job_id, schedule, team, url) ({JOBS.series('jobrun_job_info')})"),
            size=(14, 3),
            defaults={"noValue": "-"},
            columns=(
                Column(field="team", title="Team", width=140),
                Column(field="schedule", title="Schedule", width=170),
                Column(field="job_id", title="Id", link=TO_JOB),
                Column(field="url"),
            ),
        ),
    ),
)
HISTORY = Row(
    title="History",
    panels=(
        panel(
            "timeline",
            "Results, runs and lateness",
            "The result of the last ended run, whether a run goes on, and whether one is overdue. "
            "Within one step the worst is shown, so that nothing short is lost.",
            over_time(worst(RESULTS, "jobrun_last_run_status", "status"), "last result"),
            over_time(worst(STATES, "jobrun_active_runs", "state"), "run"),
            over_time(f"{ON_TIME.code} + {OVERDUE}", "next run"),
            size=(24, 6),
            mappings=[text_of((0, "-", "transparent")), coded((*RESULTS, *STATES, ON_TIME, LATE))],
            options={"showValue": "auto"},
            points=300,
        ),
        panel(
            "bars",
            "Endings by result",
            "How many runs ended, each counted once.",
            over_time(JOBS.endings("$__rate_interval"), "{{result}}"),
            size=(12, 8),
            overrides=painted(RESULTS),
            interval="2m",
            points=96,
        ),
        panel(
            "bars",
            "Failures",
            "Runs that failed, errored or timed out. The diamonds are such runs: each leads to its page.",
            over_time(JOBS.endings("$__rate_interval", f'result=~"{FAILED}"'), "{{result}}", exemplars=True),
            size=(12, 8),
            overrides=painted(RESULTS),
            interval="2m",
            points=96,
        ),
    ),
)
DURATION = Row(
    title="Duration",
    panels=(
        panel(
            "heatmap",
            "How long runs took",
            "Each column is a span of time, each row a range of durations; the stronger the colour, the more runs.",
            buckets(f"sum by (le) (round({JOBS.rise(f'{RUN_DURATION}_bucket', '$__rate_interval', 'le', 'result')}))"),
            size=(12, 9),
            unit="s",
            interval="2m",
            points=60,
        ),
        panel(
            "lines",
            "Duration against the budget",
            "The last run, half and 95 % of the runs of 7 days (recording rules), and the budget. "
            "The diamonds are runs: each leads to its page.",
            over_time(LAST_DURATION, "last run"),
            over_time(recorded("jobrun_run_duration_seconds:p50_7d"), "p50, 7 days"),
            over_time(recorded("jobrun_run_duration_seconds:p95_7d"), "p95, 7 days"),
            over_time(BUDGET, "budget"),
            over_time(quantile(1, RUN_DURATION, "$__rate_interval", "result"), "longest of the step", exemplars=True),
            size=(12, 9),
            unit="s",
            overrides=[
                override("last run", color=fixed(NOTICE)),
                override("p50, 7 days", color=fixed(GOOD), custom__fillOpacity=0),
                override("p95, 7 days", color=fixed(WARNING), custom__fillOpacity=0),
                override(
                    "budget",
                    color=fixed(BAD),
                    custom__fillOpacity=0,
                    custom__lineStyle={"fill": "dash", "dash": [10, 10]},
                ),
                override("longest of the step", custom__hideFrom={"viz": True, "legend": True, "tooltip": True}),
            ],
        ),
    ),
)
WHOLE = "$__range"
STEP_DURATION = "jobrun_step_duration_seconds"
STEPS = Row(
    title="Steps",
    panels=(
        panel(
            "table",
            "Steps in this time",
            "How often each step ended and failed, how often it was the first to fail, and how long it took. "
            "Steps that were skipped after a failure are not blamed.",
            listed(total("jobrun_steps_total", WHOLE, "step_name", "result", kept="step_name")),
            listed(
                total("jobrun_steps_total", WHOLE, "step_name", "result", kept="step_name", more=f'result=~"{FAILED}"')
            ),
            listed(total("jobrun_step_root_failures_total", WHOLE, "step_name", kept="step_name")),
            listed(quantile(0.5, STEP_DURATION, WHOLE, "step_name", kept="step_name")),
            listed(quantile(0.95, STEP_DURATION, WHOLE, "step_name", kept="step_name")),
            size=(14, 9),
            options={"sortBy": [{"displayName": "Failed first", "desc": True}]},
            columns=(
                Column(field="step_name", title="Step"),
                Column(field="Value #A", title="Ended", width=80),
                Column(field="Value #B", title="Failed", width=80),
                Column(
                    field="Value #C",
                    title="Failed first",
                    width=150,
                    cell="gauge",
                    thresholds=steps(BAD),
                    defaults={"min": 0, "decimals": 0},
                ),
                Column(field="Value #D", title="p50", unit="s", width=90, defaults={"decimals": 1}),
                Column(field="Value #E", title="p95", unit="s", width=90, defaults={"decimals": 1}),
            ),
        ),
        panel(
            "bars",
            "Which step failed first",
            "Runs by the step that failed first.",
            over_time(
                total("jobrun_step_root_failures_total", "$__rate_interval", "step_name", kept="step_name"),
                "{{step_name}}",
            ),
            size=(10, 9),
            interval="2m",
            points=60,
        ),
    ),
)
REST = Row(
    title="Waiting, repeating, kinds of errors (where the system tells them)",
    collapsed=True,
    panels=(
        panel(
            "lines",
            "How long runs waited",
            "Half and 95 % of the runs that ended in each step waited no longer than this before they started.",
            over_time(quantile(0.5, "jobrun_run_queue_duration_seconds", "$__rate_interval"), "p50"),
            over_time(quantile(0.95, "jobrun_run_queue_duration_seconds", "$__rate_interval"), "p95"),
            size=(8, 8),
            unit="s",
            interval="10m",
            defaults=NOT_TOLD,
        ),
        panel(
            "bars",
            "Attempts beyond the first",
            "Attempts that were repeated, and runs that ended well after a failed one.",
            over_time(total("jobrun_run_retries_total", "$__rate_interval"), "repeated"),
            over_time(total("jobrun_runs_recovered_total", "$__rate_interval"), "recovered"),
            size=(8, 8),
            interval="2m",
            points=60,
            overrides=[override("repeated", color=fixed(WARNING)), override("recovered", color=fixed(GOOD))],
            defaults=NOT_TOLD,
        ),
        panel(
            "bars",
            "Failures by kind of error",
            "Failed runs by the kind of error that the system tells.",
            over_time(
                total("jobrun_run_errors_total", "$__rate_interval", "error_type", kept="error_type"), "{{error_type}}"
            ),
            size=(8, 8),
            interval="2m",
            points=60,
            defaults={**NOT_TOLD, "color": REDS},
        ),
    ),
)

JOB_DASHBOARD = Dashboard(
    uid="jobrun-job",
    title="Job runs / Job",
    description="One job: how it is, how it was, how long it takes, and which steps fail.",
    since="7d",
    variables=(
        datasource_variable(),
        label_variable("source", "Source", "jobrun_job_info", several=False),
        label_variable("project", "Project", 'jobrun_job_info{source="$source"}', several=False),
        label_variable("job_name", "Job", 'jobrun_job_info{source="$source", project="$project"}', several=False),
    ),
    rows=(NOW, HISTORY, DURATION, STEPS, REST),
)
