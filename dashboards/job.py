"""The dashboard of one job: the age of its data, its state, history, durations, and failing steps."""

from typing import Final

from alerting.promql import JOB
from dashboards import alerts
from dashboards.jobs import newest
from dashboards.model import Dashboard, Json, Row
from dashboards.one_job import (
    BUDGET,
    ENABLED,
    EXPECTED,
    FRESH,
    JOBS,
    KNOWN_JOB,
    LAST_DURATION,
    LIMITS,
    OUTDATED,
    OVERDUE,
    PAGED,
    PAGES,
    PAGING,
    RUN_DURATION,
    RUNNING_FOR,
    SOURCE,
    STEP_DURATION,
    STREAK_NOW,
    STUCK,
    UP,
    in_step,
    last_result,
    marked,
    of_source,
    one,
    recorded,
    total,
    worst,
)
from dashboards.page import ANY, annotations, datasource_variable, label_variable, scrape_variable
from dashboards.panels import Column, Tile, buckets, called, link, listed, over_time, panel, sort_by, tiles, timestamp
from dashboards.problems import SCRAPED, SHORT
from dashboards.words import (
    BAD,
    DOWN,
    FAILED,
    FEW_RUNS,
    GOOD,
    LAG,
    LATE,
    NEARLY,
    NEUTRAL,
    NO_NUMBER,
    NO_RUN,
    NOTICE,
    OFF,
    QUIET,
    REASONS,
    REDS,
    RESULTS,
    SHARE_USED,
    STATES,
    UNKNOWN_JOB,
    WARNING,
    coded,
    fixed,
    known,
    override,
    painted,
    steps,
    text_of,
)
from exporter.snapshot.conditions import RATIO_RUNS

TO_RUN = link("Open the run", "${__field.labels.run_url:raw}")
TO_JOB = ("Open the job in its system", "${__data.fields.url:raw}")
NOT_GIVEN: Final[Json] = {"noValue": "no data from vendor"}
WHOLE = "$__range"
ROOT_FAILURES = JOBS.series("jobrun_step_root_failures_total")
EVER_FAILED: Final = f"max by ({JOB}, step_name) (increase({ROOT_FAILURES}[{WHOLE}] @ end() offset -$__interval))"
"""Steps that failed first in the range. Zeros are kept: Grafana draws a bar without neighbors very wide."""
AGE_IS_CRITICAL: Final[Json] = {
    "matcher": {"id": "byFrameRefID", "options": "A"},
    "properties": [{"id": "thresholds", "value": known(GOOD, (NEARLY, NOTICE), (1, BAD))}],
}
"""Only the first limit, the age of the last success, has a critical alert."""


def last_results() -> list[Json]:
    """Return texts and colors of the codes of `last_result`: a failure is a warning, many in a row are critical."""
    texts = [(0.0, "none yet", QUIET), (float(OUTDATED), "none yet", QUIET)]
    for each in RESULTS:
        failed = each.word in FAILED.split("|")
        texts += [
            (each.code, each.word, WARNING if failed else each.color),
            (each.code + PAGED, each.word, BAD if failed else each.color),
            (each.code + OUTDATED, each.word, QUIET),
            (each.code + OUTDATED + PAGED, each.word, QUIET),
        ]
    return [text_of(*texts)]


NOT_KNOWN_NOW: Final = "not known now"
SHORT_ID = f'label_replace({JOBS.last_failure}, "run", "$1", "run_id", "{SHORT}")'
NOW = Row(
    title="Now",
    panels=(
        tiles(
            "Status",
            "With data 2 minutes old, all runs that completed more than 2 minutes ago are counted. While the source "
            "cannot be read, all other tiles are grey. Failures are orange, and red if they page. Canceled, "
            "skipped and unknown runs are ignored.",
            Tile(
                name="Age of the data",
                expression=f"(time() - {of_source('jobrun_source_watermark_timestamp_seconds')}) and {KNOWN_JOB}"
                f" or {UNKNOWN_JOB} + 0 * max({SCRAPED})",
                otherwise="no exporter",
                unit="s",
                decimals=1,
                thresholds=LAG,
                mappings=[REASONS],
            ),
            Tile(
                name="Source",
                expression=UP,
                otherwise="not known",
                mappings=[text_of((0, "cannot be read", BAD), (1, "is read", GOOD))],
            ),
            Tile(name="Last result", expression=last_result(), otherwise="not known", mappings=last_results()),
            Tile(
                name="Failed in a row{{is}}",
                expression=marked(f"{STREAK_NOW} and {FRESH}", PAGING, PAGES),
                otherwise=NOT_KNOWN_NOW,
                thresholds=steps("transparent", (1, WARNING)),
            ),
            Tile(
                name="Failing for{{is}}",
                expression=marked(f"(max({JOBS.failing_for}) or 0 * {STREAK_NOW}) and {FRESH}", PAGING, PAGES),
                otherwise=NOT_KNOWN_NOW,
                unit="s",
                decimals=1,
                thresholds=steps("transparent", (1, WARNING)),
                mappings=[text_of((0, "-", "transparent"))],
            ),
            overrides=[override(f"{name}{PAGES}", color=fixed(BAD)) for name in ("Failed in a row", "Failing for")],
        ),
        tiles(
            "When",
            "When a run last succeeded and when the next one is expected: by the schedule, else as learned. An API "
            "outage makes no job overdue. How long the oldest active run has been waiting and executing. Whether the "
            f"vendor runs the job. The success ratio is up to the last full hour and needs {RATIO_RUNS} runs.",
            Tile(
                name="Last success",
                expression=f"1000 * {one('jobrun_last_success_timestamp_seconds')}",
                otherwise="none known",
                unit="dateTimeFromNow",
            ),
            Tile(
                name="Next run{{is}}",
                expression=marked(f"1000 * ({EXPECTED} and {FRESH})", OVERDUE, " is overdue"),
                otherwise=NOT_KNOWN_NOW,
                unit="dateTimeFromNow",
            ),
            Tile(
                name="Active run{{is}}",
                expression=marked(
                    f"({RUNNING_FOR} or 0 * {one('jobrun_active_runs')}) and {FRESH}", STUCK, " is too long"
                ),
                otherwise=NOT_KNOWN_NOW,
                unit="s",
                decimals=1,
                mappings=[text_of((0, "none", "transparent"))],
            ),
            Tile(
                name="Job",
                expression=ENABLED,
                otherwise="not given",
                mappings=[text_of((0, "disabled", WARNING), (1, "enabled", "transparent"))],
            ),
            Tile(
                name="Success, 30 days",
                expression=f"max({JOBS.success_ratio})"
                f" or {FEW_RUNS} + 0 * {one('jobrun_last_run_end_timestamp_seconds')}"
                f" or {NO_RUN} + 0 * {one('jobrun_job_info')}",
                otherwise="no job",
                unit="percentunit",
                decimals=1,
                mappings=[REASONS],
                thresholds=steps("transparent", (-1e9, WARNING), (0.99, "transparent")),
            ),
            width=17,
            overrides=[
                override(name, color=fixed(WARNING)) for name in ("Next run is overdue", "Active run is too long")
            ],
        ),
        panel(
            "stat",
            "Open the run that failed last",
            "When a run last failed, its shortened ID, its failed step and error type. A click opens its page.",
            timestamp(
                f"1000 * {SHORT_ID} * on ({JOB}) group_left () {JOBS.each('jobrun_last_failure_timestamp_seconds')}",
                "{{run}} {{failed_step}} {{error_type}}",
            ),
            size=(7, 4),
            unit="dateTimeFromNow",
            thresholds=NEUTRAL,
            options={"colorMode": "value", "textMode": "value_and_name", "text": {"titleSize": 15, "valueSize": 24}},
            defaults={"noValue": "none known", "links": [TO_RUN]},
        ),
        panel(
            "table",
            "Details of the job",
            "Team, highest severity, schedule, why it was disabled, and its ID, which links to the vendor.",
            listed(f"max by (job_id, schedule, team, page, stop_cause, url) ({JOBS.series('jobrun_job_info')})"),
            size=(24, 4),
            defaults={"noValue": "No job is selected, or no exporter is scraped."},
            columns=(
                Column(field="team", title="Team", defaults={"custom.minWidth": 110}),
                Column(field="page", title="Highest severity", width=145),
                Column(field="schedule", title="Schedule", defaults={"custom.minWidth": 110}),
                Column(field="stop_cause", title="Disabled because", defaults={"custom.minWidth": 110}),
                Column(field="job_id", title="ID", link=TO_JOB, defaults={"custom.minWidth": 90}),
                Column(field="url"),
            ),
        ),
        panel(
            "gauges",
            "How much of each limit is used",
            "Used fraction of the freshness objective, the duration budget, and an error budget of 1 % in 30 days. "
            "Blue from 80 %, orange or red from 100 %. Without an objective, a limit is not shown.",
            *(timestamp(f"{expression} and {FRESH}", name) for name, expression in LIMITS.items()),
            size=(10, 6),
            unit="percentunit",
            thresholds=SHARE_USED,
            defaults={"max": 1, "decimals": 0, "noValue": "no objective, or not known now"},
            overrides=[AGE_IS_CRITICAL, *called(LIMITS)],
        ),
        alerts.table("Alerts of this job that fire", alerts.OF_ONE_JOB, size=(14, 6), whose=False),
    ),
)
HISTORY = Row(
    title="History",
    panels=(
        panel(
            "timeline",
            "Results, active runs and problems",
            "The result of the last completed run, and whether a run is active. Below, if they occur: a run is "
            "overdue, the job is disabled, the source cannot be read. Each step of the graph shows the worst state.",
            over_time(worst(RESULTS, "jobrun_last_run_status", "status"), "last result"),
            over_time(worst(STATES, "jobrun_active_runs", "state"), "run"),
            over_time(f"{LATE.code} + 0 * {in_step('max_over_time', JOBS.series('jobrun:overdue:held'))}", "overdue"),
            over_time(f"{OFF.code} + 0 * ({in_step('min_over_time', JOBS.series('jobrun_job_enabled'))} == 0)", "job"),
            over_time(
                f"{DOWN.code} + 0 * ({in_step('min_over_time', f'jobrun_source_up{{{JOBS.scrape}, {SOURCE}}}')} == 0)",
                "source",
            ),
            size=(24, 6),
            mappings=[text_of((0, "-", "transparent")), coded((*RESULTS, *STATES, LATE, OFF, DOWN))],
            options={"showValue": "auto"},
            defaults={"noValue": "Nothing is known about this job in this range."},
            points=600,
        ),
        panel(
            "bars",
            "Completed runs by result",
            "Number of completed runs, each counted once. Each diamond is a run and links to its page.",
            over_time(JOBS.completed("$__rate_interval"), "{{result}}", exemplars=True),
            size=(12, 8),
            overrides=painted(RESULTS),
            interval="2m",
            points=168,
        ),
        panel(
            "lines",
            "Duration against the budget",
            "Duration of the last run, median and 95th percentile of 7 days (recording rules), and the budget. Each "
            "diamond is a run and links to its page.",
            over_time(LAST_DURATION, "last run"),
            over_time(recorded("jobrun_run_duration_seconds:p50_7d"), "p50, 7 days"),
            over_time(recorded("jobrun_run_duration_seconds:p95_7d"), "p95, 7 days"),
            over_time(BUDGET, "budget"),
            over_time(
                JOBS.quantile(1, RUN_DURATION, "$__rate_interval", of=f"{JOB}, result"),
                "longest of the step",
                exemplars=True,
            ),
            size=(12, 8),
            unit="s",
            defaults={"noValue": "No run of this job completed in this range, or no job is selected."},
            overrides=[
                override("last run", color=fixed(NOTICE)),
                override("p50, 7 days", color=fixed("light-blue"), custom__fillOpacity=0),
                override("p95, 7 days", color=fixed("purple"), custom__fillOpacity=0),
                override(
                    "budget",
                    color=fixed(WARNING),
                    custom__fillOpacity=0,
                    custom__lineStyle={"fill": "dash", "dash": [10, 10]},
                ),
                override("longest of the step", custom__hideFrom={"viz": True, "legend": True, "tooltip": True}),
            ],
        ),
    ),
)
STEPS = Row(
    title="Steps",
    panels=(
        panel(
            "table",
            "Steps in this range",
            "How often each step completed, failed, and failed first, and how long it took. Steps that were skipped "
            "after a failure do not count as failed.",
            listed(total("jobrun_steps_total", WHOLE, "step_name", "result", kept="step_name")),
            listed(
                total("jobrun_steps_total", WHOLE, "step_name", "result", kept="step_name", more=f'result=~"{FAILED}"')
            ),
            listed(total("jobrun_step_root_failures_total", WHOLE, "step_name", kept="step_name")),
            listed(JOBS.quantile(0.5, STEP_DURATION, WHOLE, "step_name")),
            listed(JOBS.quantile(0.95, STEP_DURATION, WHOLE, "step_name")),
            size=(14, 9),
            defaults={"noValue": "No step completed in this range, steps are not read, or no exporter was scraped."},
            options=sort_by(("Failed first", True)),
            columns=(
                Column(field="step_name", title="Step"),
                Column(field="Value #A", title="Completed", width=95),
                Column(field="Value #B", title="Failed", width=80),
                Column(
                    field="Value #C",
                    title="Failed first",
                    width=150,
                    cell="gauge",
                    thresholds=steps(BAD),
                    defaults={"min": 0, "decimals": 0},
                ),
                Column(
                    field="Value #D", title="p50", unit="s", width=90, mappings=[NO_NUMBER], defaults={"decimals": 1}
                ),
                Column(
                    field="Value #E", title="p95", unit="s", width=90, mappings=[NO_NUMBER], defaults={"decimals": 1}
                ),
            ),
        ),
        panel(
            "bars",
            "Which step failed first",
            "Runs by the step that failed first.",
            over_time(
                total("jobrun_step_root_failures_total", "$__rate_interval", "step_name", kept="step_name")
                + f" and on (step_name) ({EVER_FAILED} > 0)",
                "{{step_name}}",
            ),
            size=(10, 9),
            interval="2m",
            points=168,
            defaults={"color": REDS, "noValue": "No step failed in this time, or no exporter was scraped."},
        ),
    ),
)
MORE = Row(
    title="More: durations, waiting times, retries, types of errors",
    collapsed=True,
    panels=(
        panel(
            "heatmap",
            "How long runs took",
            "Each column is a time range, each row a range of durations. A stronger color means more runs. Useful for "
            "jobs with many runs.",
            buckets(
                f"sum by (le) (round({JOBS.rise(f'{RUN_DURATION}_bucket', '$__rate_interval', 'le', 'result')}))"
                f"\nor on () {newest(JOBS.series(RUN_DURATION), '$__rate_interval')}"
            ),
            size=(24, 8),
            unit="s",
            interval="2m",
            points=60,
            defaults=NOT_GIVEN,
        ),
        panel(
            "lines",
            "How long runs waited",
            "Median and 95th percentile of how long runs waited before they started.",
            over_time(JOBS.quantile(0.5, "jobrun_run_queue_duration_seconds", "$__rate_interval"), "p50"),
            over_time(JOBS.quantile(0.95, "jobrun_run_queue_duration_seconds", "$__rate_interval"), "p95"),
            size=(8, 8),
            unit="s",
            interval="10m",
            defaults=NOT_GIVEN,
        ),
        panel(
            "bars",
            "Attempts beyond the first",
            "Repeated attempts, and runs that succeeded after a failed attempt.",
            over_time(total("jobrun_run_retries_total", "$__rate_interval"), "repeated"),
            over_time(total("jobrun_runs_recovered_total", "$__rate_interval"), "recovered"),
            size=(8, 8),
            interval="2m",
            points=60,
            overrides=[override("repeated", color=fixed(WARNING)), override("recovered", color=fixed(GOOD))],
            defaults=NOT_GIVEN,
        ),
        panel(
            "bars",
            "Failures by kind of error",
            "Failed runs by the kind of error that the vendor reports.",
            over_time(
                total("jobrun_run_errors_total", "$__rate_interval", "error_type", kept="error_type"), "{{error_type}}"
            ),
            size=(8, 8),
            interval="2m",
            points=60,
            defaults={**NOT_GIVEN, "color": REDS},
        ),
    ),
)

JOB_DASHBOARD = Dashboard(
    uid="jobrun-job",
    title="Job runs / Job",
    description="One job: the age of its data, its status, history, durations, and failing steps.",
    since="7d",
    variables=(
        datasource_variable(),
        scrape_variable("jobrun_source_up"),
        label_variable("team", "Team", 'jobrun_job_info{job=~"$job"}', every=ANY),
        label_variable("source", "Source", 'jobrun_job_info{job=~"$job", team=~"$team"}'),
        label_variable("project", "Project", 'jobrun_job_info{job=~"$job", team=~"$team", source="$source"}'),
        label_variable(
            "job_name", "Job", 'jobrun_job_info{job=~"$job", team=~"$team", source="$source", project="$project"}'
        ),
    ),
    annotations=annotations(SOURCE),
    rows=(NOW, HISTORY, STEPS, MORE),
)
