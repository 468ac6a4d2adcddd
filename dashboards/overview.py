"""The dashboard *Overview*: current problems, who owns them and since when; then all jobs."""

from typing import Final

from alerting.promql import JOB
from dashboards import alerts, problems
from dashboards.jobs import IS_SHORT, LONG, Jobs
from dashboards.model import Dashboard, Row
from dashboards.page import (
    ANY,
    annotations,
    choice_variable,
    datasource_variable,
    label_variable,
    long_variable,
    scrape_variable,
)
from dashboards.panels import Column, Tile, link, listed, over_time, panel, sort_by, tiles, timestamp
from dashboards.words import (
    ANY_IS_A_WARNING,
    ANY_IS_CRITICAL,
    BAD,
    CRITICAL,
    ENDLESS,
    FEW_RUNS,
    LAG,
    LEVELS,
    NEARLY,
    NO_NUMBER,
    RANK_RANGES,
    RANKS,
    REASONS,
    RESULTS,
    SHARE_USED,
    STREAK,
    STREAKS,
    SUCCESS_RATIO,
    WARNING,
    WARNS,
    painted,
    steps,
)
from exporter.snapshot.conditions import RATIO_RUNS, TOLERANCE

MATCHERS = 'source=~"$source", project=~"$project", job_name=~"$job_name"'
JOBS = Jobs(MATCHERS, team='team=~"$team"')
SOURCES = 'source=~"$source"'
TILES = 24

JOB_PAGE = (
    "/d/jobrun-job?var-datasource=${datasource}"
    "&var-job=${__data.fields.job:percentencode}"
    "&var-source=${__data.fields.source:percentencode}"
    "&var-project=${__data.fields.project:percentencode}"
    "&var-job_name=${__data.fields.job_name:percentencode}"
)
TO_JOB = ("Open the job", JOB_PAGE)
TO_JOB_OF_TILE = link("Open the job", JOB_PAGE.replace("__data.fields", "__field.labels"))
TO_EXPORTER = link("Open the exporter", "/d/jobrun-exporter?var-datasource=${datasource}")
TO_RUN = ("Open the run", "${__data.fields.run_url:raw}")


def of_source(metric: str) -> str:
    """Return a metric of the selected sources, one series per source."""
    return JOBS.of_source(f"{metric}{{{JOBS.scrape}, {SOURCES}}}")


def either(kinds: dict[str, str], limit: str = "") -> str:
    """Return the union of named expressions; the label `what` has the name."""
    return "\nor ".join(f'label_replace(({each}){limit}, "what", "{what}", "", "")' for what, each in kinds.items())


NO_JOB: Final = "No job is known: no exporter is scraped, or its sources have no jobs."
RANK = problems.ranks(JOBS)
NEWEST = f"1 / (2 + {JOBS.failing_for} / 60)"
WORST_FIRST = f"({RANK} + on ({JOB}) ({NEWEST} or on ({JOB}) 0 * max by ({JOB}) ({JOBS.info})))"
"""The ranks plus a fraction that is larger for jobs that started to fail later."""


def with_name(expression: str) -> str:
    """Return an expression with a label `name`: the job, shortened in the middle, because names often end alike."""
    name = f'label_replace({expression}, "name", "$1", "job_name", "(.*)")'
    return f'label_replace({name}, "name", "$1…$2", "job_name", "(.{{12}}).{{3,}}(.{{8}})")'


USED_UP = f"({JOBS.chosen(JOBS.errors_used)})"
DOWN = f"{of_source('jobrun_source_up')} == 0"
WRONG_COLUMNS = (
    Column(field="severity", title="Severity", width=85, cell="color-background", mappings=[LEVELS]),
    Column(field="what", title="What", width=205),
    alerts.job_column(TO_JOB),
    Column(field="Value", title="For", unit="s", width=90, mappings=[NO_NUMBER, ENDLESS], defaults={"decimals": 1}),
    *alerts.WHOSE,
    Column(field="failed_step", title="Failed step", width=130, cell="wrapped"),
    Column(field="run", title="Run", width=85, link=TO_RUN),
    Column(field="job"),
    Column(field="run_url"),
)
NOW = Row(
    title="Now",
    panels=(
        tiles(
            "At a glance",
            "Jobs not well: jobs with a problem, even if its alert does not fire yet. Error budget used up: jobs with "
            f"at least {RATIO_RUNS} runs in 30 days, of which more than 1 % failed. Sources down: the last poll could "
            "not read all of the source. Oldest data: the source that is furthest behind.",
            Tile(
                name="Critical alerts",
                expression=alerts.counted(alerts.OF_JOBS, alerts.OF_OTHERS, severity="critical"),
                otherwise="not known",
                thresholds=ANY_IS_CRITICAL,
            ),
            Tile(
                name="Warnings",
                expression=alerts.counted(alerts.OF_JOBS, alerts.OF_OTHERS, severity="warning"),
                otherwise="not known",
                thresholds=ANY_IS_A_WARNING,
            ),
            Tile(
                name="Jobs not well",
                expression=f"count({RANK} >= {WARNS.rank}) or 0 * count({JOBS.info})",
                otherwise="no job",
                thresholds=ANY_IS_A_WARNING,
            ),
            Tile(
                name="Error budget used up",
                expression=f"count({USED_UP} >= 1) or 0 * count({USED_UP}) or {FEW_RUNS} + 0 * count({JOBS.info})",
                otherwise="no job",
                thresholds=ANY_IS_A_WARNING,
                mappings=[REASONS],
            ),
            Tile(
                name="Sources down",
                expression=f"count({DOWN}) or 0 * count({of_source('jobrun_source_up')})",
                otherwise="no exporter",
                thresholds=ANY_IS_CRITICAL,
                link=TO_EXPORTER,
            ),
            Tile(
                name="Oldest data {{source}}",
                expression=f"topk(1, time() - {of_source('jobrun_source_watermark_timestamp_seconds')})",
                otherwise="no exporter",
                unit="s",
                decimals=1,
                thresholds=LAG,
                link=TO_EXPORTER,
            ),
        ),
        panel(
            "table",
            "What is wrong",
            "The most urgent problem of each job, source and exporter, and for how long it has lasted. The newest come "
            "first. The job links to its dashboard, the run to its page.",
            listed(problems.rows(JOBS, SOURCES)),
            size=(24, 9),
            unit="short",
            defaults={"noValue": "No problems: all sources are read and all jobs are healthy."},
            options=sort_by(("Severity", False), ("For", False)),
            columns=WRONG_COLUMNS,
        ),
        panel(
            "stat",
            "Jobs, the worst first",
            f"The {TILES} jobs with the most urgent problems, new ones first. Red: critical. Orange: warning. Green: "
            "healthy. Grey: unknown, because the source cannot be read, or the job never ran or is disabled.",
            timestamp(f"sort_desc(topk({TILES}, {with_name(WORST_FIRST)}))", "{{name}}"),
            size=(13, 9),
            mappings=RANK_RANGES,
            options={"textMode": "name", "justifyMode": "center", "text": {"titleSize": 13, "valueSize": 13}},
            defaults={"links": [TO_JOB_OF_TILE], "noValue": NO_JOB},
        ),
        panel(
            "table",
            "Owners of the problems",
            "Number of jobs with critical problems, with warnings, and in total, per team and project.",
            listed(f"count by (job, team, project) ({JOBS.with_team(f'{RANK} == {CRITICAL.rank}')})"),
            listed(f"count by (job, team, project) ({JOBS.with_team(f'{RANK} == {WARNS.rank}')})"),
            listed(f"count by (job, team, project) ({JOBS.with_team(RANK)})"),
            size=(11, 9),
            defaults={"decimals": 0, "noValue": NO_JOB},
            options=sort_by(("Critical", True), ("Warning", True)),
            columns=(
                Column(field="team", title="Team", defaults={"custom.minWidth": 90}),
                Column(field="project", title="Project", defaults={"custom.minWidth": 110}),
                Column(
                    field="Value #A",
                    title="Critical",
                    width=85,
                    cell="color-background",
                    thresholds=steps("transparent", (1, BAD)),
                ),
                Column(
                    field="Value #B",
                    title="Warning",
                    width=90,
                    cell="color-background",
                    thresholds=steps("transparent", (1, WARNING)),
                ),
                Column(field="Value #C", title="Jobs", width=55),
            ),
        ),
    ),
)
ALL_JOBS = Row(
    title="Alerts and jobs",
    panels=(
        alerts.table("Alerts that fire", alerts.OF_JOBS, alerts.OF_OTHERS, size=(24, 8)),
        panel(
            "table",
            "All jobs",
            "Each job with its status, its last result, and its next expected run. A job links to its dashboard. "
            f"The success ratio covers 30 days up to the last full hour and needs {RATIO_RUNS} runs.",
            listed(f"{RANK} >= $show"),
            listed(JOBS.each("jobrun_job_info", "team", "schedule")),
            listed(f"{JOBS.each('jobrun_last_run_status', 'status')} == 1"),
            listed(JOBS.streak),
            listed(f"1000 * {JOBS.each('jobrun_last_run_end_timestamp_seconds')}"),
            listed(f"1000 * {JOBS.each('jobrun_job_next_run_expected_timestamp_seconds')}"),
            listed(JOBS.success_ratio),
            size=(24, 13),
            unit="short",
            defaults={"noValue": NO_JOB},
            options=sort_by(("State", True), ("Last run", True)),
            needed="Value #A",
            columns=(
                Column(
                    field="Value #A",
                    title="State",
                    width=80,
                    cell="color-background",
                    defaults={"custom.align": "left"},
                    mappings=[RANKS],
                ),
                alerts.job_column(TO_JOB),
                *alerts.WHOSE,
                Column(field="status", title="Last result", width=90),
                Column(field="Value #D", title="Failures", width=70, cell="color-text", thresholds=STREAK),
                Column(field="Value #E", title="Last run", unit="dateTimeFromNow", width=142),
                Column(field="Value #F", title="Next run", unit="dateTimeFromNow", width=142),
                Column(
                    field="Value #G",
                    title="Success, 30 d",
                    unit="percentunit",
                    width=110,
                    cell="color-text",
                    thresholds=SUCCESS_RATIO,
                    defaults={"decimals": 1},
                ),
                Column(field="job"),
            ),
        ),
    ),
)
RATE_LIMIT_LEFT = (
    f"{of_source('jobrun_source_rate_limit_remaining_requests')}"
    f" / {of_source('jobrun_source_rate_limit_limit_requests')}"
)
SOON: Final = {
    "start is late": JOBS.chosen(f"{JOBS.late} / {TOLERANCE}"),
    "last success is old": JOBS.chosen(f"{JOBS.age} / on ({JOB}) {JOBS.freshness}"),
    "run takes long": JOBS.chosen(f"{JOBS.running_for} / on ({JOB}) {JOBS.budget}"),
    "error budget": JOBS.chosen(JOBS.errors_used),
    "request limit": f"1 - {RATE_LIMIT_LEFT}",
}
"""Name of each limit, and the query of its used fraction."""
CLOSE = Row(
    title="Close to a limit",
    collapsed=True,
    panels=(
        panel(
            "table",
            "Close to a limit",
            "Objectives, budgets and request limits that are used by 80 % to 100 %.",
            listed(f"(\n{either(SOON)}\n) >= {NEARLY} < 1"),
            size=(24, 8),
            unit="short",
            defaults={"noValue": "No known limit is nearly reached."},
            options=sort_by(("Used", True)),
            columns=(
                Column(field="what", title="Limit", width=150),
                alerts.job_column(TO_JOB),
                Column(field="project", title="Project", width=130),
                Column(field="source", title="Source", width=105),
                Column(
                    field="Value",
                    title="Used",
                    unit="percentunit",
                    width=220,
                    cell="gauge",
                    thresholds=SHARE_USED,
                    defaults={"min": 0, "max": 1, "decimals": 0},
                ),
                Column(field="job"),
            ),
        ),
    ),
)
HISTORY = Row(
    title="History",
    panels=(
        panel(
            "bars",
            "Completed runs by result",
            "Number of completed runs, each counted once. Ranges above two days are sums of recorded hours.",
            over_time(JOBS.completed("$__rate_interval", IS_SHORT), "{{result}}"),
            over_time(JOBS.completed_in_hours("$__interval"), "{{result}}", interval="1h"),
            size=(12, 9),
            overrides=painted(RESULTS),
            interval="2m",
            points=144,
        ),
        panel(
            "timeline",
            "The longest streaks of failures",
            "The 15 jobs with the longest streaks of failures in this range. Green: the last run succeeded.",
            over_time(
                with_name(f"{JOBS.streak_in_step} and on ({JOB}) topk(15, {JOBS.chosen(JOBS.worst_streak)})"),
                "{{name}} ({{source}})",
            ),
            size=(12, 9),
            mappings=STREAKS,
            points=120,
            defaults={"noValue": "No job failed in this time, or no exporter was scraped."},
        ),
        panel(
            "gauges",
            "The lowest success ratios, 30 days",
            f"The ten jobs with the lowest success ratio among jobs with at least {RATIO_RUNS} runs, up to the last "
            "full hour. Needs the recording rules. Canceled and skipped runs are ignored.",
            timestamp(f"sort(bottomk(10, {with_name(JOBS.chosen(JOBS.success_ratio))}))", "{{name}} ({{source}})"),
            size=(24, 7),
            unit="percentunit",
            thresholds=SUCCESS_RATIO,
            defaults={
                "max": 1,
                "decimals": 1,
                "noValue": f"No job has {RATIO_RUNS} runs, or the recording rules are missing.",
            },
        ),
    ),
)

OVERVIEW = Dashboard(
    uid="jobrun-overview",
    title="Job runs / Overview",
    description="Current problems of jobs, who owns them, and since when.",
    since="24h",
    variables=(
        datasource_variable(),
        scrape_variable("jobrun_source_up"),
        label_variable("team", "Team", 'jobrun_job_info{job=~"$job"}', every=ANY),
        label_variable("source", "Source", 'jobrun_source_up{job=~"$job"}', every=ANY),
        label_variable("project", "Project", f"jobrun_job_info{{{JOBS.scrape}, {SOURCES}}}", every=ANY),
        label_variable(
            "job_name", "Job", f'jobrun_job_info{{{JOBS.scrape}, {SOURCES}, project=~"$project"}}', every=ANY
        ),
        choice_variable("show", "Show", {"all jobs": "0", "only jobs that are not well": str(WARNS.rank)}),
        long_variable(LONG),
    ),
    annotations=annotations(SOURCES),
    rows=(NOW, ALL_JOBS, CLOSE, HISTORY),
)
