"""Alerts about the exporter itself and its configuration."""

from alerting import texts
from alerting.model import Alert, Group
from alerting.promql import GONE, LAST_SEEN, increase
from exporter.snapshot import conditions as limits

MAX_TAKEOVERS, HOUR = 6, 3600
"""Number of takeovers of a source in an hour above which the alert fires."""
MAX_STARTS, STARTS_WITHIN = 3, "10m"
"""Number of starts of an exporter in this time above which the alert fires."""

PAIRED = "jobrun_source_up and on (job, source) count by (job, source) (jobrun_source_up) > 1"
"""Exporters that share a source with another exporter."""
INSTANCE = "{{ $labels.instance }}"

GROUP = Group(
    "jobrun-exporter",
    (
        Alert(
            name="JobrunExporterAbsent",
            expression="absent_over_time(jobrun_exporter_build_info[3m])",
            summary="No jobrun-exporter is scraped",
            description=(
                "For 5 minutes Prometheus has had no metrics of any jobrun-exporter. Failures of jobs are not "
                "reported; alerts that fired do not change."
            ),
            links={"dashboard_url": "<grafana-url>/d/jobrun-exporter"},
            why="A Prometheus without data needs up to 2 minutes until it has scraped an exporter.",
        ),
        Alert(
            name="JobrunExporterDown",
            expression=f"""
            max by (job, instance) (up == 0 and on (job, instance) {LAST_SEEN})
            unless on (job, instance)
            ({LAST_SEEN} and on (job, source) {GONE})
            unless on ()
            absent(jobrun_exporter_build_info)
            """,
            summary=f"Exporter {INSTANCE} does not answer",
            description=(
                f"One of several exporters, {INSTANCE}, has not responded for 15 minutes. Others read its sources, so "
                "nothing is missed, but the next failure of an exporter would be an outage."
            ),
            links=texts.EXPORTERS,
            why="Others read its sources; otherwise JobrunSourceGone fires.",
        ),
        Alert(
            name="JobrunExporterRestarting",
            expression=f"""
            changes(process_start_time_seconds[{STARTS_WITHIN}]) > {MAX_STARTS}
            and on (job, instance)
            max_over_time(jobrun_exporter_build_info[{STARTS_WITHIN}])
            """,
            summary=f"Exporter {INSTANCE} starts again and again",
            description=(
                f"Exporter {INSTANCE} of scrape job {{{{ $labels.job }}}} was started {{{{ $value }}}} times in 10 "
                "minutes. Either it crashes, or several exporters have this instance label. If one of those stops, "
                "no alert reports it."
            ),
            links=texts.of_exporter("JobrunExporterRestarting"),
            why="Scrapes of two exporters with one instance label alternate between two start times.",
        ),
        Alert(
            name="JobrunExporterLabelClash",
            expression="""
            count by (job) (
              jobrun_job_info{exported_source!=""}
              or
              jobrun_job_info{exported_project!=""}
              or
              jobrun_job_info{exported_job_name!=""}
            )
            """,
            summary="Prometheus overwrites labels of scrape job {{ $labels.job }}",
            description=(
                "Targets of scrape job {{ $labels.job }} have a label called source, project or job_name, and "
                "Prometheus replaces the labels of {{ $value }} jobs by it. Alerts of jobs may be missing, also those "
                "of other teams. Set honor_labels in the scrape config."
            ),
            links=texts.of_exporter("JobrunExporterLabelClash"),
            why="""Jobs that differ only in the replaced label have the same labels, and then rules about jobs fail for
            all exporters.""",
        ),
        Alert(
            name="JobrunReplicaLost",
            expression="""
            max by (job) (jobrun_exporter_replicas)
            < on (job)
            max by (job) (
              quantile_over_time(0.5, jobrun_exporter_replicas[6h]) and on (job, instance) jobrun_exporter_replicas
            )
            """,
            summary="Only {{ $value }} replicas of {{ $labels.job }} are left",
            description=(
                "For 15 minutes {{ $value }} replicas have shared the state, fewer than in most of the last 6 hours. They "
                "poll all sources, so nothing is missed, but fewer are left if one fails."
            ),
            links=texts.EXPORTERS,
            why="The median ignores the additional replica of a rollout. Only replicas that still run are compared.",
        ),
        Alert(
            name="JobrunReplicaLeaseFlapping",
            expression=f"""
            sum by (job, source) (
              {increase("jobrun_source_ownership_changes_total", HOUR)}
            ) > {MAX_TAKEOVERS}
            """,
            summary=f"Replicas take over {texts.SOURCE} again and again",
            description=(
                f"Replicas took over {texts.SOURCE} {{{{ $value }}}} times in an hour. Numbers stay right, but its data "
                "is late. A replica that loses a source drops what it has read since its last commit."
            ),
            links=texts.EXPORTERS,
            why="A rollout moves a source a few times.",
        ),
        Alert(
            name="JobrunExporterStateNotCommitting",
            expression=f"{increase('jobrun_exporter_state_commit_errors_total', limits.COMMIT_ERRORS_SHOWN)} > 0",
            summary=f"Exporter {INSTANCE} cannot write its state",
            description=(
                f"Writes of the state of {INSTANCE} fail, {{{{ $value }}}} in 15 minutes. Nothing is counted until it "
                "can write again; then runs of that time are counted too."
            ),
            links=texts.of_exporter("JobrunExporterStateNotCommitting"),
        ),
        Alert(
            name="JobrunExporterStateLost",
            expression=f"""
            sum by (job, instance, reason) (
              {increase('jobrun_exporter_state_cold_starts_total{reason!="new"}', limits.COLD_START_SHOWN)}
            ) > 0
            """,
            summary=f"Exporter {INSTANCE} lost its state or a part of it ({{{{ $labels.reason }}}})",
            description=(
                f'{{{{ if eq $labels.reason "lost" }}}}Exporter {INSTANCE} was down for longer than the history of an API.'
                f'{{{{ else if eq $labels.reason "rewound" }}}}The database lost commits of {INSTANCE}, which are read again '
                f"as far as the APIs show them.{{{{ else }}}}The state of {INSTANCE} was damaged, so counting started "
                "again.{{ end }} Runs that completed before may be missing in counters."
            ),
            links=texts.of_exporter("JobrunExporterStateLost"),
            why="A first start does not count.",
        ),
        Alert(
            name="JobrunExporterSeriesOverflow",
            expression=f"""
            sum by (job, instance) (jobrun_exporter_series_overflow_total) > 0
            and on (job, instance)
            sum by (job, instance) (jobrun_exporter_series)
            >= on (job, instance)
            {limits.NEARLY_FULL} * max by (job, instance) (jobrun_exporter_series_limit)
            """,
            summary=f"Exporter {INSTANCE} has too many series",
            description=(
                f"Exporter {INSTANCE} has reached metrics.max_series, and {{{{ $value }}}} series were not created. "
                "New jobs are "
                "counted under __other__, and no alert watches them. This lasts until a tenth of the limit is free."
            ),
            links=texts.of_exporter("JobrunExporterSeriesOverflow"),
            why="Jobs stay folded until a tenth of the limit is free.",
        ),
        Alert(
            name="JobrunExporterConfigReloadFailed",
            expression="jobrun_exporter_config_last_reload_successful == 0",
            summary=f"Exporter {INSTANCE} refused its configuration",
            description=(
                f"The last reload of {INSTANCE} found errors in the config. The previous config is still active; a "
                "restart would fail."
            ),
            links=texts.of_exporter("JobrunExporterConfigReloadFailed"),
        ),
        Alert(
            name="JobrunObjectiveMatchesNothing",
            expression=f"""
            min by (job, objective) (
              max by (job, objective) (jobrun_objective_jobs and on (job, instance) ({PAIRED}))
              or
              max by (job, instance, objective) (jobrun_objective_jobs unless on (job, instance) ({PAIRED}))
            ) == 0
            """,
            summary="No job matches objectives[{{ $labels.objective }}] of the config",
            description=(
                "For an hour no job has matched objectives[{{ $labels.objective }}]. The job was renamed, was "
                "never deployed, or its name in the config is wrong. No alert reports it if it does not run."
            ),
            links=texts.of_exporter("JobrunObjectiveMatchesNothing"),
            why="""Exporters that share sources have the same config, and the largest of their numbers counts: an
            exporter that has just started may not know all jobs yet. Other exporters have different objectives.""",
        ),
        Alert(
            name="JobrunWatchdog",
            expression="vector(1)",
            summary="Alerts get from Prometheus to Alertmanager",
            description=(
                "This alert always fires. Send it to a service that reports when it stops; then a broken Prometheus or "
                "Alertmanager is noticed too."
            ),
        ),
    ),
)
