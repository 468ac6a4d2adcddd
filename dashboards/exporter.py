"""The dashboard of the exporter: how fresh and complete its numbers are, and what they cost."""

from typing import Final

from dashboards.jobs import window_of
from dashboards.model import Dashboard, Json, Row
from dashboards.page import ANY, SOME, annotations, datasource_variable, label_variable, scrape_variable
from dashboards.panels import Column, Tile, listed, over_time, panel, sort_by, tiles, timestamp
from dashboards.sources import (
    DAY,
    INSTANCE,
    OUTCOMES,
    SOURCE,
    WINDOW,
    exporter_rise,
    of_exporter,
    of_process,
    of_source,
    per_minute,
    quantile,
    rise,
    worst_outcome,
)
from dashboards.words import (
    ANY_IS_CRITICAL,
    BAD,
    GOOD,
    LAG,
    NO_NUMBER,
    NOTICE,
    ORANGES,
    QUIET,
    REDS,
    SHARE_LEFT,
    SHARE_USED,
    WARNING,
    coded,
    fixed,
    known,
    override,
    steps,
    text_of,
)

WHOLE: Final = "$__range"
REQUEST_DURATION: Final = "jobrun_source_api_request_duration_seconds"
REFUSED: Final = 'code!~"2.."'
COUNTS: Final[Json] = {"min": 0, "decimals": 0}
UP: Final = [text_of((0, "down", BAD), (1, "up", GOOD))]
NOTABLE: Final = steps("text", (0.5, WARNING))
NO_EXPORTER, NO_SOURCE, NO_JOB = "no exporter", "no source", "no job"
JOBS = of_source("jobrun_source_jobs")
ANY_JOB: Final = f"on () (sum({JOBS}) > 0)"
"""Exists if a job is known. Without jobs, sources without problems prove nothing and must not be green."""
UP_OF_SOURCE = of_source("jobrun_source_up")
LOST = rise("jobrun_source_unobserved_seconds_total", DAY)
FEW: Final = 'disposition!~"baseline|duplicate"'


def by_pattern(pattern: str, color: str) -> Json:
    """Return the override that colors the series whose names match."""
    return {
        "matcher": {"id": "byRegexp", "options": f"/^{pattern}$/"},
        "properties": [{"id": "color", "value": fixed(color)}],
    }


WATERMARK = of_source("jobrun_source_watermark_timestamp_seconds")
LAGGING = f"time() - {WATERMARK}"
REMAINING = of_source("jobrun_source_rate_limit_remaining_requests")
LIMIT = of_source("jobrun_source_rate_limit_limit_requests")

GLANCE = Row(
    title="Now",
    panels=(
        tiles(
            "At a glance",
            "Sources down: the last poll could not read all of the source. Oldest data: the source that is furthest "
            "behind. Lost: the API no longer shows runs of this time, and they were never read. Series used: fraction "
            "of metrics.max_series; new jobs are counted under __other__ when it is full. State written: how long "
            "ago. Config: whether the last reload was applied.",
            Tile(
                name="Jobs",
                expression=f"sum({JOBS})",
                otherwise=NO_SOURCE,
                mappings=[text_of((0, "none", QUIET))],
            ),
            Tile(
                name="Sources down",
                expression=f"count({UP_OF_SOURCE} == 0) or 0 * count({UP_OF_SOURCE}) and {ANY_JOB}",
                otherwise=NO_JOB,
                thresholds=ANY_IS_CRITICAL,
            ),
            Tile(
                name="Oldest data {{source}}",
                expression=f"topk(1, {LAGGING})",
                otherwise=NO_SOURCE,
                unit="s",
                decimals=0,
                thresholds=LAG,
            ),
            Tile(
                name="Lost, last day",
                expression=f"max({LOST}) > 0 or max({LOST}) and {ANY_JOB}",
                otherwise=NO_JOB,
                unit="s",
                decimals=0,
                thresholds=known(GOOD, (0.5, WARNING)),
            ),
            Tile(
                name="Series used",
                expression=f"max(sum by (job, instance) ({of_exporter('jobrun_exporter_series', 'family')})"
                f" / {of_exporter('jobrun_exporter_series_limit')})",
                otherwise=NO_EXPORTER,
                unit="percentunit",
                decimals=1,
                thresholds=SHARE_USED,
            ),
            Tile(
                name="State written",
                expression=f"max(time() - {of_exporter('jobrun_exporter_state_last_commit_timestamp_seconds')})",
                otherwise=NO_EXPORTER,
                unit="s",
                decimals=0,
                thresholds=LAG,
            ),
            Tile(
                name="Config",
                expression=f"min({of_exporter('jobrun_exporter_config_last_reload_successful')})",
                otherwise=NO_EXPORTER,
                mappings=[text_of((0, "refused", WARNING), (1, "applied", GOOD))],
            ),
        ),
    ),
)
FRESHNESS = Row(
    title="Freshness: how old the data is",
    panels=(
        panel(
            "lines",
            "Age of the data",
            "All runs of each source that completed longer ago than this are counted. The best value is settle plus "
            "the poll interval.",
            over_time(LAGGING, "{{source}}"),
            size=(12, 8),
            unit="s",
            thresholds=LAG,
            custom={"thresholdsStyle": {"mode": "off"}, "fillOpacity": 0},
        ),
        panel(
            "lines",
            "From the end of a run until it is counted (p95)",
            "95 % of the completed runs were counted within this time.",
            over_time(quantile(0.95, "jobrun_source_observation_delay_seconds"), "{{source}}"),
            size=(12, 8),
            unit="s",
            interval="2m",
            custom={"showPoints": "auto", "fillOpacity": 0},
        ),
        panel(
            "timeline",
            "Polls of each source",
            "The worst outcome of polls. Partial: some parts could not be read. Skipped: the previous poll was still "
            "running.",
            over_time(worst_outcome(), "{{source}}"),
            size=(12, 8),
            mappings=[coded(OUTCOMES)],
            defaults={"noValue": "No source was polled in this time."},
            interval="2m",
            points=96,
        ),
        panel(
            "lines",
            "Poll duration against the interval",
            "Duration of a poll as a fraction of the interval. Near 100 %, polls are skipped.",
            over_time(
                f"{of_source('jobrun_source_last_poll_duration_seconds')}"
                f" / {of_source('jobrun_source_poll_interval_seconds')}",
                "{{source}}",
            ),
            size=(12, 8),
            unit="percentunit",
            custom={"fillOpacity": 0},
        ),
    ),
)
COVERAGE = Row(
    title="Coverage: what is counted and what is missing",
    panels=(
        panel(
            "table",
            "Sources and their problems of the last day",
            "Lost: time whose completed runs are missing permanently. Late: runs that the API showed after the "
            "watermark had passed their end. Unmapped: runs with an unknown status.",
            listed(of_source("jobrun_source_info", "provider")),
            listed(of_source("jobrun_source_up")),
            listed(of_source("jobrun_source_jobs")),
            listed(of_source("jobrun_exporter_tracked_runs")),
            listed(of_source("jobrun_source_scopes", more='state="readable"')),
            listed(of_source("jobrun_source_scopes", more='state="unreadable"')),
            listed(LOST),
            listed(rise("jobrun_source_runs_fetched_total", DAY, more='disposition="late"')),
            listed(rise("jobrun_source_truncated_responses_total", DAY)),
            listed(rise("jobrun_source_steps_lost_total", DAY)),
            listed(of_source("jobrun_source_step_fetches_pending")),
            listed(f"sum by (job, source) ({rise('jobrun_source_unmapped_status_total', DAY, 'status')})"),
            size=(24, 7),
            defaults={"noValue": "No source is known: no exporter is scraped.", "decimals": 0},
            options=sort_by(("State", False), ("Source", False)),
            columns=(
                Column(field="source", title="Source", defaults={"custom.minWidth": 110}),
                # A narrow screen shows the first columns only.
                Column(field="Value #B", title="State", width=65, cell="color-background", mappings=UP),
                Column(field="Value #G", title="Lost", unit="s", width=70, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #H", title="Late", width=60, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #F", title="Unreadable", width=95, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #I", title="Truncated", width=90, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #J", title="Steps lost", width=90, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #L", title="Unmapped", width=90, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #C", title="Jobs", width=60),
                Column(field="Value #D", title="Active runs", width=95),
                Column(field="Value #E", title="Scopes", width=70),
                Column(field="Value #K", title="Steps pending", width=115),
                Column(field="provider", title="System", width=100),
            ),
        ),
        panel(
            "bars",
            "Rows read, by disposition",
            "New and updated rows change the numbers. Not shown: duplicates from overlapping polls, and baseline runs.",
            over_time(
                f"sum by (disposition) ({rise('jobrun_source_runs_fetched_total', WINDOW, 'disposition', more=FEW)})",
                "{{disposition}}",
            ),
            size=(12, 8),
            interval="2m",
            points=96,
            overrides=[
                override("new", color=fixed(NOTICE)),
                override("updated", color=fixed("light-blue")),
                override("ignored", color=fixed(QUIET)),
                override("late", color=fixed(BAD)),
                override("invalid", color=fixed(WARNING)),
            ],
        ),
        panel(
            "lines",
            "Active runs",
            "Active runs, each of which is followed until it completes.",
            over_time(of_source("jobrun_exporter_tracked_runs"), "{{source}}"),
            size=(12, 8),
            custom={"fillOpacity": 0},
        ),
    ),
)
IN_STEP = window_of(WINDOW)
TAKEOVERS = f"max by (job, instance, source) (increase(jobrun_source_ownership_changes_total{{{SOURCE}}}{IN_STEP}))"
LEASES_LOST = f"max by (job, instance) (increase(jobrun_exporter_lease_lost_total{{{INSTANCE}}}{IN_STEP}))"
ENDPOINTS = panel(
    "table",
    "Endpoints in this time",
    "Requests per endpoint, the fraction of failed ones, and the 95th percentile of their duration.",
    listed(
        f"sum by (job, source, endpoint) (round({rise('jobrun_source_api_requests_total', WHOLE, 'endpoint', 'code')}))"
    ),
    listed(
        "sum by (job, source, endpoint) (round("
        f"{rise('jobrun_source_api_requests_total', WHOLE, 'endpoint', 'code', more=REFUSED)}))"
    ),
    listed(quantile(0.95, REQUEST_DURATION, "endpoint", window=WHOLE)),
    size=(24, 8),
    defaults={"noValue": "No requests in this range."},
    options=sort_by(("Requests", True)),
    columns=(
        Column(field="source", title="Source", width=140),
        Column(field="endpoint", title="Endpoint"),
        Column(field="Value #A", title="Requests", width=220, cell="gauge", thresholds=steps(NOTICE), defaults=COUNTS),
        Column(field="Value #B", title="Refused", width=110, cell="color-text", thresholds=NOTABLE, defaults=COUNTS),
        Column(field="Value #C", title="p95", unit="s", width=110, mappings=[NO_NUMBER]),
    ),
)
API = Row(
    title="API use: requests to the vendors",
    collapsed=True,
    panels=(
        panel(
            "lines",
            "Requests per minute",
            "Requests of each source with any response.",
            over_time(
                f"sum by (job, source) ({per_minute('jobrun_source_api_requests_total', 'endpoint', 'code')})",
                "{{source}}",
            ),
            size=(8, 8),
            unit="reqpm",
            custom={"fillOpacity": 0},
        ),
        panel(
            "bars",
            "Answers by code",
            "Requests by the code of the response. 429: the rate limit was reached.",
            over_time(
                f"sum by (code) (round({rise('jobrun_source_api_requests_total', WINDOW, 'endpoint', 'code')}))",
                "{{code}}",
            ),
            size=(8, 8),
            interval="2m",
            points=60,
            overrides=[
                by_pattern("2..", GOOD),
                by_pattern("3..", NOTICE),
                by_pattern("4..", WARNING),
                by_pattern("5..", BAD),
            ],
        ),
        panel(
            "bars",
            "Errors of polls by reason",
            "Why polls could not read everything. An empty graph is the ideal.",
            over_time(
                f"sum by (reason) (round({rise('jobrun_source_poll_errors_total', WINDOW, 'reason')})) > 0"
                f' or label_replace(0 * count({of_source("jobrun_source_up")}), "reason", "none", "", "")',
                "{{reason}}",
            ),
            defaults={"color": REDS},
            overrides=[override("none", color=fixed(GOOD))],
            size=(8, 8),
            interval="2m",
            points=60,
        ),
        panel(
            "lines",
            "Rate limit left",
            "Remaining fraction of the tightest rate limit that a vendor reports.",
            over_time(f"{REMAINING} / {LIMIT}", "{{source}}"),
            size=(8, 8),
            unit="percentunit",
            thresholds=SHARE_LEFT,
            defaults={"min": 0, "max": 1, "noValue": "no data from vendor"},
        ),
        panel(
            "lines",
            "Waiting for the request limit",
            "Fraction of the time that requests waited to stay within the budget.",
            over_time(
                f"max by (job, source) (rate(jobrun_source_rate_limit_wait_seconds_total{{{SOURCE}}}[{WINDOW}]))",
                "{{source}}",
            ),
            size=(8, 8),
            unit="percentunit",
            custom={"fillOpacity": 0, "axisSoftMax": 0.1},
        ),
        panel(
            "lines",
            "Credential expires in",
            "Time until the credential expires. The exporter renews tokens some minutes before.",
            over_time(f"{of_source('jobrun_source_credential_expiry_timestamp_seconds')} - time()", "{{source}}"),
            size=(8, 8),
            unit="s",
            defaults={"noValue": "none expires"},
            custom={"fillOpacity": 0},
        ),
        ENDPOINTS,
    ),
)
COST = Row(
    title="Cost: what the exporter needs",
    collapsed=True,
    panels=(
        panel(
            "gauges",
            "Series by metric family",
            "The twelve metric families with the most series.",
            timestamp(f"sort_desc(topk(12, max by (family) (jobrun_exporter_series{{{INSTANCE}}})))", "{{family}}"),
            size=(12, 10),
            thresholds=steps(NOTICE),
            defaults={"decimals": 0},
        ),
        panel(
            "lines",
            "CPU",
            "Cores that the exporter uses.",
            over_time(of_process(f"rate(process_cpu_seconds_total{{{INSTANCE}}}[{WINDOW}])"), "{{instance}}"),
            size=(6, 5),
        ),
        panel(
            "lines",
            "Memory",
            "Resident memory of the exporter.",
            over_time(of_process(f"process_resident_memory_bytes{{{INSTANCE}}}"), "{{instance}}"),
            size=(6, 5),
            unit="bytes",
        ),
        panel(
            "lines",
            "Scrape duration",
            "How long a scrape of the exporter takes.",
            over_time(of_process(f"scrape_duration_seconds{{{INSTANCE}}}"), "{{instance}}"),
            size=(6, 5),
            unit="s",
        ),
        panel(
            "lines",
            "Size of the state",
            "Size of the state on disk.",
            over_time(of_exporter("jobrun_exporter_state_size_bytes"), "{{instance}}"),
            size=(6, 5),
            unit="bytes",
        ),
        panel(
            "table",
            "Exporters and their problems of the last day",
            "Cold starts: starts without a usable state. Missed polls: due while one was running. Overflow: series "
            "that were not created, because metrics.max_series was reached.",
            listed(of_exporter("jobrun_exporter_build_info", "version", "python_version")),
            listed(of_process(f"1000 * process_start_time_seconds{{{INSTANCE}}}")),
            listed(of_process(f"scrape_samples_scraped{{{INSTANCE}}}")),
            listed(exporter_rise("jobrun_exporter_state_commit_errors_total")),
            listed(exporter_rise("jobrun_exporter_state_cold_starts_total", "reason")),
            listed(exporter_rise("jobrun_exporter_scheduler_missed_polls_total", "source")),
            listed(exporter_rise("jobrun_exporter_series_overflow_total", "family")),
            size=(24, 5),
            defaults={"noValue": "No exporter is scraped.", "decimals": 0},
            columns=(
                Column(field="instance", title="Instance", defaults={"custom.minWidth": 150}),
                Column(field="version", title="Version", width=90),
                Column(field="python_version", title="Python", width=90),
                Column(field="Value #B", title="Started", unit="dateTimeFromNow", width=130),
                Column(field="Value #C", title="Series", width=90),
                Column(field="Value #D", title="Failed writes", width=115, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #E", title="Cold starts", width=105, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #F", title="Missed polls", width=115, cell="color-text", thresholds=NOTABLE),
                Column(field="Value #G", title="Overflow", width=95, cell="color-text", thresholds=NOTABLE),
            ),
        ),
    ),
)

REPLICAS = Row(
    title="Replicas: who polls what, if they share a state in PostgreSQL",
    collapsed=True,
    panels=(
        panel(
            "lines",
            "Replicas",
            "Replicas that share the state, as each of them sees it.",
            over_time(of_exporter("jobrun_exporter_replicas"), "{{instance}}"),
            size=(6, 8),
            defaults={"min": 0, "decimals": 0, "noValue": "no shared state"},
            custom={"fillOpacity": 0},
        ),
        panel(
            "lines",
            "Sources by replica",
            "Number of sources that each replica polls. The sum is lower while a source is taken over.",
            over_time(
                f"count by (replica) (max by (job, source, replica) (jobrun_source_owner_info{{{SOURCE}}}))",
                "{{replica}}",
            ),
            size=(6, 8),
            defaults={"min": 0, "decimals": 0, "noValue": "no shared state"},
            custom={"fillOpacity": 0},
        ),
        panel(
            "bars",
            "Takeovers",
            "How often a replica took over a source. A rollout moves each source a few times.",
            over_time(f"sum by (job, source) (round({TAKEOVERS}))", "{{source}}"),
            size=(6, 8),
            interval="2m",
            points=60,
            defaults={"noValue": "no shared state"},
        ),
        panel(
            "bars",
            "Leases lost",
            "Sources that a replica lost because it could not reach the database, or was frozen.",
            over_time(f"round({LEASES_LOST})", "{{instance}}"),
            size=(6, 8),
            interval="2m",
            points=60,
            defaults={"noValue": "no shared state", "color": ORANGES},
        ),
    ),
)

EXPORTER = Dashboard(
    uid="jobrun-exporter",
    title="Job runs / Exporter",
    description="How fresh and complete the numbers are, how many requests the APIs get, and what the exporter uses.",
    since="6h",
    variables=(
        datasource_variable(),
        scrape_variable('{__name__=~"jobrun_exporter_build_info|jobrun_source_up"}'),
        label_variable("source", "Source", 'jobrun_source_up{job=~"$job"}', every=ANY),
        label_variable("instance", "Instance", 'jobrun_exporter_build_info{job=~"$job"}', every=SOME),
    ),
    annotations=annotations('source=~"$source"'),
    rows=(GLANCE, FRESHNESS, COVERAGE, API, COST, REPLICAS),
)
