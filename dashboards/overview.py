"""The dashboard for the wall: what is wrong now, what is about to be, and all jobs."""

from typing import Final, Unpack

from dashboards.jobs import GRACE, IS_SHORT, JOB, LONG, Jobs
from dashboards.model import Dashboard, Json, Panel, Row, datasource_variable, label_variable, long_variable
from dashboards.panels import Column, Own, instant, link, listed, over_time, panel
from dashboards.words import (
    ANY_IS_A_WARNING,
    ANY_IS_BAD,
    BAD,
    GOOD,
    LAG,
    NOTICE,
    RESULTS,
    SHARE_LEFT,
    SHARE_USED,
    STATES,
    STREAKS,
    SUCCESS_RATIO,
    WARNING,
    known,
    named,
    painted,
    steps,
    text_of,
)

JOBS = Jobs('source=~"$source", project=~"$project", job_name=~"$job_name"')
SOURCES = 'source=~"$source"'
NEARLY = 0.8
"""The share of a limit from which on something is about to be wrong."""

JOB_PAGE = (
    "/d/jobrun-job?var-datasource=${datasource}"
    "&var-source=${__data.fields.source:percentencode}"
    "&var-project=${__data.fields.project:percentencode}"
    "&var-job_name=${__data.fields.job_name:percentencode}"
)
TO_JOB = ("Open the job", JOB_PAGE)
TO_EXPORTER = link("Open the exporter", "/d/jobrun-exporter?var-datasource=${datasource}")
TO_RUN = ("Open the run", "${__data.fields.run_url:raw}")
COUNTED_AHEAD: Final = known(NOTICE)
IN_A_ROW: Final = steps("text", (1, WARNING), (3, BAD))
CREDENTIAL: Final = known(BAD, (300, WARNING), (3600, GOOD))


def of_source(metric: str) -> str:
    """A metric of the sources chosen, one series a source."""
    return f"max by (source) ({metric}{{{SOURCES}}})"


def either(kinds: dict[str, str], limit: str = "") -> str:
    """All series of all kinds, which say in the label `what` of which kind they are."""
    return "\nor ".join(f'label_replace(({each}){limit}, "what", "{what}", "", "")' for what, each in kinds.items())


OVER_BUDGET = f"{JOBS.running_for} > on ({JOB}) {JOBS.budget}"
TOO_OLD = f"({JOBS.age} - on ({JOB}) {JOBS.freshness}) > 0"
FRESHNESS_USED = f"{JOBS.age} / on ({JOB}) {JOBS.freshness}"
BUDGET_USED = f"{JOBS.running_for} / on ({JOB}) {JOBS.budget}"
USUAL_BUDGET_USED = f"{JOBS.recorded('jobrun_run_duration_seconds:p95_7d')} / on ({JOB}) {JOBS.budget}"
ERRORS_USED = JOBS.recorded("jobrun_runs:error_budget_burn_30d")
RATE_LIMIT_LEFT = (
    f"{of_source('jobrun_source_rate_limit_remaining_requests')}"
    f" / {of_source('jobrun_source_rate_limit_limit_requests')}"
)
WRONG: Final = {
    "failing": (
        f"(time() - {JOBS.each('jobrun_failing_since_timestamp_seconds')})"
        f" * on ({JOB}) group_left (run_id, run_url, failed_step) {JOBS.last_failure}"
    ),
    "overdue": JOBS.overdue,
    "over its budget": OVER_BUDGET,
    "no recent success": TOO_OLD,
    "not readable": (
        f"(time() - {of_source('jobrun_source_last_success_timestamp_seconds')})"
        f" and on (source) ({of_source('jobrun_source_up')} == 0)"
    ),
}
"""What can be wrong → the jobs or sources of which it is true, with the seconds since."""
SOON: Final = {
    "start is late": f"{JOBS.late} / {GRACE} < 1",
    "last success is old": f"({FRESHNESS_USED}) < 1",
    "still running": f"({BUDGET_USED}) < 1",
    "usually slow (p95)": USUAL_BUDGET_USED,
    "error budget": f"({ERRORS_USED}) < 1",
    "rate limit": f"1 - {RATE_LIMIT_LEFT}",
}
"""What is limited → the share of the limit that is used."""


def number(title: str, description: str, expression: str, **own: Unpack[Own]) -> Panel:
    """A number of the blocks at the top: red when it is not 0, if nothing else is said."""
    own.setdefault("thresholds", ANY_IS_BAD)
    return panel("stat", title, description, instant(expression), size=(4, 3), **own)


def nearly(expression: str) -> str:
    """How many jobs have used most of a limit, but not all of it."""
    return JOBS.counted(f"({expression} >= {NEARLY}) < 1")


NOTHING: Final[Json] = {"noValue": "-"}
WHO = (
    Column(field="job_name", title="Job", link=TO_JOB, defaults={"custom.minWidth": 135}),
    Column(field="project", title="Project", defaults={"custom.minWidth": 125}),
    Column(field="source", title="Source", width=90),
)
WRONG_NOW = Row(
    title="Wrong now",
    panels=(
        number(
            "Failing",
            "Jobs whose last runs failed, errored or timed out; unchanged while the next run goes on.",
            JOBS.counted(JOBS.failing),
        ),
        number(
            "Overdue",
            "Jobs of which no run began within 10 minutes of the time when it was expected. "
            "An API that cannot be read makes no job overdue.",
            JOBS.counted(JOBS.overdue),
        ),
        panel(
            "table",
            "What is wrong, and for how long",
            "One line for each thing that is wrong. The job leads to its dashboard, the step that failed to its run.",
            listed(either(WRONG)),
            size=(16, 9),
            unit="short",
            defaults={"noValue": "Nothing is wrong with what is known"},
            options={"sortBy": [{"displayName": "For", "desc": True}]},
            columns=(
                Column(
                    field="what",
                    title="What",
                    width=135,
                    cell="color-text",
                    mappings=[
                        {
                            "type": "value",
                            "options": {
                                "failing": {"color": BAD, "index": 0},
                                "not readable": {"color": BAD, "index": 1},
                                "overdue": {"color": WARNING, "index": 2},
                                "over its budget": {"color": WARNING, "index": 3},
                                "no recent success": {"color": WARNING, "index": 4},
                            },
                        }
                    ],
                ),
                *WHO,
                Column(field="Value", title="For", unit="s", width=90, defaults={"decimals": 1}),
                Column(field="failed_step", title="Failed step", width=135, defaults=NOTHING),
                Column(field="run_id", title="Run", width=95, link=TO_RUN, defaults=NOTHING),
                Column(field="run_url"),
            ),
        ),
        number(
            "Over budget",
            "Jobs with a run that goes on for longer than its duration budget: slow, or stuck.",
            JOBS.counted(OVER_BUDGET),
        ),
        number(
            "No recent success",
            "Jobs whose last success is older than their freshness objective allows.",
            JOBS.counted(TOO_OLD),
        ),
        number(
            "Sources down",
            "Sources whose last poll could not read everything that their credential may read.",
            f"count({of_source('jobrun_source_up')} == 0) or 0 * count({of_source('jobrun_source_up')})",
            defaults={"links": [TO_EXPORTER]},
        ),
        number(
            "Behind by",
            "How far the slowest source is behind: of it, nothing newer is on this page. "
            "Orange from 5, red from 15 minutes.",
            f"max(time() - {of_source('jobrun_source_watermark_timestamp_seconds')})",
            unit="s",
            thresholds=LAG,
            defaults={"decimals": 0, "links": [TO_EXPORTER]},
        ),
    ),
)
ABOUT_TO_BE = Row(
    title="About to be wrong",
    panels=(
        number(
            "Due within an hour",
            "Jobs whose next run is expected within the next hour.",
            JOBS.counted(
                f"({JOBS.each('jobrun_job_next_run_expected_timestamp_seconds')} > time()) < time() + 3600",
            ),
            thresholds=COUNTED_AHEAD,
        ),
        number(
            "Nearly too old",
            "Jobs whose last success has reached four fifths of the age that their freshness objective allows.",
            nearly(FRESHNESS_USED),
            thresholds=ANY_IS_A_WARNING,
        ),
        panel(
            "table",
            "What has used most of a limit",
            "Objectives, budgets and rate limits of which four fifths are used. Durations (7 days) and error budgets "
            "(30 days at 99 % success) come from the recording rules.",
            listed(either(SOON, f" >= {NEARLY}")),
            size=(16, 9),
            unit="short",
            defaults={"noValue": "Nothing is near a limit"},
            options={"sortBy": [{"displayName": "Used", "desc": True}]},
            columns=(
                Column(field="what", title="Limit", width=135),
                *WHO,
                Column(
                    field="Value",
                    title="Used",
                    unit="percentunit",
                    width=200,
                    cell="gauge",
                    thresholds=SHARE_USED,
                    defaults={"min": 0, "max": 1, "decimals": 0},
                ),
            ),
        ),
        number(
            "Near their budget",
            "Jobs with a run that has used four fifths of its duration budget and goes on.",
            nearly(BUDGET_USED),
            thresholds=ANY_IS_A_WARNING,
        ),
        number(
            "Errors near budget",
            "Jobs that have used four fifths of their error budget, 1 % of the runs of 30 days. "
            "Needs the recording rules.",
            nearly(ERRORS_USED),
            thresholds=ANY_IS_A_WARNING,
        ),
        number(
            "Credential ends in",
            "The credential that ends first. Those that the exporter renews itself stay above 5 minutes.",
            f"min({of_source('jobrun_source_credential_expiry_timestamp_seconds')} - time())",
            unit="s",
            thresholds=CREDENTIAL,
            defaults={"decimals": 0, "noValue": "none ends"},
        ),
        number(
            "Rate limit left",
            "The share that is left of the tightest rate limit of all sources.",
            f"min({RATE_LIMIT_LEFT})",
            unit="percentunit",
            thresholds=SHARE_LEFT,
            defaults={"decimals": 0, "noValue": "not told"},
        ),
    ),
)
ALL_JOBS = Row(
    title="Jobs",
    panels=(
        panel(
            "table",
            "All jobs",
            "Each job with its last result, its streak of failures, and when its next run is expected. "
            "A job leads to its dashboard.",
            listed(JOBS.each("jobrun_job_info", "team", "schedule")),
            listed(f"{JOBS.each('jobrun_last_run_status', 'status')} == 1"),
            listed(JOBS.each("jobrun_consecutive_failures")),
            listed(f"sum by ({JOB}) ({JOBS.each('jobrun_active_runs', 'state')})"),
            listed(f"1000 * {JOBS.each('jobrun_last_run_end_timestamp_seconds')}"),
            listed(f"1000 * {JOBS.each('jobrun_last_success_timestamp_seconds')}"),
            listed(JOBS.each("jobrun_last_run_duration_seconds")),
            listed(f"1000 * {JOBS.each('jobrun_job_next_run_expected_timestamp_seconds')}"),
            listed(JOBS.recorded("jobrun_runs:success_ratio_30d")),
            size=(24, 13),
            unit="short",
            options={"sortBy": [{"displayName": "Streak", "desc": True}]},
            columns=(
                Column(
                    field="status",
                    title="Last",
                    width=95,
                    cell="color-background",
                    mappings=[named(RESULTS)],
                    thresholds=steps("transparent"),
                ),
                *WHO,
                Column(
                    field="Value #C",
                    title="Streak",
                    width=70,
                    cell="color-text",
                    thresholds=steps("text", (1, WARNING), (3, BAD)),
                ),
                Column(
                    field="Value #D",
                    title="Running",
                    width=75,
                    cell="color-text",
                    thresholds=steps("text", (1, NOTICE)),
                    mappings=[text_of((0, "-", "text"))],
                ),
                Column(field="Value #E", title="Last end", unit="dateTimeFromNow", width=136),
                Column(field="Value #F", title="Last success", unit="dateTimeFromNow", width=136),
                Column(field="Value #G", title="Took", unit="s", width=75, defaults={"decimals": 1}),
                Column(field="Value #H", title="Next expected", unit="dateTimeFromNow", width=136),
                Column(
                    field="Value #I",
                    title="30 days",
                    unit="percentunit",
                    width=80,
                    cell="color-text",
                    thresholds=SUCCESS_RATIO,
                    defaults={"decimals": 1},
                ),
                Column(field="team", title="Team", width=95),
            ),
        ),
    ),
)
STREAK_OF_EACH = JOBS.each("jobrun_consecutive_failures")
WORST = f"topk(15, {JOBS.worst_streak})"
HISTORY = Row(
    title="History",
    panels=(
        panel(
            "bars",
            "Endings by result",
            "How many runs ended, each counted once. More than two days are added up from the recording rules' hours.",
            over_time(JOBS.endings("$__rate_interval", IS_SHORT), "{{result}}"),
            over_time(JOBS.endings_of_hours("$__interval"), "{{result}}"),
            size=(12, 9),
            overrides=painted(RESULTS),
            interval="2m",
            points=48,  # so that windows of long ranges are whole hours
        ),
        panel(
            "timeline",
            "The longest streaks of failures",
            "The 15 jobs that failed most often in a row in this time. Green: the last run was well.",
            over_time(
                f"{JOBS.each('jobrun_consecutive_failures')} and on ({JOB}) {WORST}", "{{job_name}} ({{source}})"
            ),
            size=(12, 9),
            mappings=STREAKS,
            points=120,
        ),
        panel(
            "lines",
            "Runs that have not ended",
            "Runs that wait and runs that go on.",
            over_time(f"sum by (state) ({JOBS.each('jobrun_active_runs', 'state')})", "{{state}}"),
            size=(12, 8),
            overrides=painted(STATES),
            custom={"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 40},
            points=160,
        ),
        panel(
            "gauges",
            "The lowest success ratios, 30 days",
            "The ten jobs with the smallest share of runs that succeeded; needs the recording rules. "
            "Cancelled and skipped runs count neither way.",
            instant(
                f"sort(bottomk(10, {JOBS.recorded('jobrun_runs:success_ratio_30d')}))",
                "{{job_name}} ({{source}})",
            ),
            size=(12, 8),
            unit="percentunit",
            thresholds=SUCCESS_RATIO,
            defaults={"max": 1, "decimals": 1},
        ),
    ),
)

OVERVIEW = Dashboard(
    uid="jobrun-overview",
    title="Job runs / Overview",
    description="What is wrong with the jobs now, what is about to be, and all of them.",
    since="24h",
    variables=(
        datasource_variable(),
        label_variable("source", "Source", "jobrun_job_info", several=True),
        label_variable("project", "Project", 'jobrun_job_info{source=~"$source"}', several=True),
        label_variable("job_name", "Job", 'jobrun_job_info{source=~"$source", project=~"$project"}', several=True),
        long_variable(LONG),
    ),
    rows=(WRONG_NOW, ABOUT_TO_BE, ALL_JOBS, HISTORY),
)
