"""Alerts about sources whose jobs are not watched, or soon will not be."""

from alerting import texts
from alerting.model import Alert, Group, Record
from alerting.promql import (
    GONE,
    LAST_SEEN,
    PAGE_DELAY,
    SERVED_SOURCES,
    UNWATCHED_SOURCES_QUERY,
    held,
    increase,
    indent,
    unless_started,
    window,
)
from exporter.snapshot import conditions as limits


def condition(name: str, live: str) -> str:
    """Return a condition that does not change while its exporter is gone or starting."""
    # Another group records UNWATCHED_SOURCES, and may be evaluated later. The condition must not change before that.
    now = f"(\n{indent(UNWATCHED_SOURCES_QUERY, 2)}\n)"
    return f"{live}\nor\n{held(name)}\nand on (job, source) {now}\nunless on (job, source) jobrun_source_up"


def unless_down(alert: str) -> str:
    """Return an alert that does not start while the source is down."""
    name = {"JobrunSourceStale": "source_stale", "JobrunSourceScopeUnreadable": "source_scope_unreadable"}[alert]
    return unless_started(alert, held(name), "job, source", held("source_down"))


AVAILABLE = (
    Record(held("source_down"), condition("source_down", "max by (job, source) (jobrun_source_up) == 0")),
    Alert(
        name="JobrunSourceDown",
        expression=f"""
        {held("source_down")}
        and on (job, source)
        {held("source_down")} offset {window(PAGE_DELAY)}
        unless on (job, source)
        (
          max_over_time(jobrun_source_up[{window(PAGE_DELAY)}]) > 0
          or
          changes(jobrun_source_last_success_timestamp_seconds[{window(PAGE_DELAY)}]) > 0
        )
        """,
        summary=f"Source {texts.SOURCE} cannot be read",
        description=(
            f"No poll of {texts.SOURCE} has read anything for 5 minutes. Nothing new is known about its jobs, and their "
            "alerts do not change. Runs that complete now are counted when the API responds again."
        ),
        links=texts.of_source("JobrunSourceDown"),
    ),
    Record(
        GONE,
        f"""
        max by (job, source) ({LAST_SEEN} unless on (job, instance) jobrun_exporter_build_info)
        unless on (job, source)
        {SERVED_SOURCES}
        """,
        "Sources whose exporter is gone, and which no other exporter reads. After a week they count as removed.",
    ),
    Alert(
        name="JobrunSourceGone",
        expression=unless_started(
            "JobrunSourceGone",
            f"{GONE} < time() - {PAGE_DELAY}",
            "job, source",
            f"{GONE} and on () absent(jobrun_exporter_build_info)",
        ),
        summary=f"No exporter serves {texts.SOURCE}",
        description=(
            f"The exporter of {texts.SOURCE} (scrape job {{{{ $labels.job }}}}) has been gone since "
            "{{ humanizeTimestamp $value }}. Failures of its jobs are not reported; alerts that fired do not change."
        ),
        links=texts.of_source("JobrunSourceGone"),
        why="If no exporter is left, JobrunExporterAbsent fires instead.",
    ),
    Record(
        held("source_stale"),
        condition(
            "source_stale",
            f"""time()
- (
  max by (job, source) (jobrun_source_watermark_timestamp_seconds)
  or
  -Inf * max by (job, source) (jobrun_source_poll_interval_seconds)
)
> clamp_min(
  {limits.POLLS_BEHIND} * max by (job, source) (jobrun_source_poll_interval_seconds), {limits.MIN_LAG}
)""",
        ),
        "A source that has never been read completely has no watermark. It counts as behind.",
    ),
    Alert(
        name="JobrunSourceStale",
        expression=unless_down("JobrunSourceStale"),
        summary=f"Source {texts.SOURCE} is behind{{{{ if lt $value 1e12 }}}} by {{{{ humanizeDuration $value }}}}{{{{ end }}}}",
        description=(
            f"{{{{ if lt $value 1e12 }}}}The runs of {texts.SOURCE} in the last {{{{ humanizeDuration $value }}}} have not "
            f"been read completely{{{{ else }}}}The runs of {texts.SOURCE} have never been read completely{{{{ end }}}}. "
            "Alerts of its jobs use old data."
        ),
        links=texts.of_source("JobrunSourceStale"),
    ),
    Record(
        held("source_scope_unreadable"),
        condition(
            "source_scope_unreadable",
            'min by (job, source) (jobrun_source_scopes{state="unreadable"}) > 0',
        ),
    ),
    Alert(
        name="JobrunSourceScopeUnreadable",
        expression=unless_down("JobrunSourceScopeUnreadable"),
        summary=f"{{{{ $value }}}} scopes of {texts.SOURCE} cannot be read",
        description=(
            f"{{{{ $value }}}} customers or projects of {texts.SOURCE} cannot be read, because the API refuses them or fails. "
            "Failures of their jobs are not reported; all other jobs are watched."
        ),
        links=texts.of_source("JobrunSourceScopeUnreadable"),
    ),
)


def recently(name: str, counter: str, seconds: int, by: str = "job, source") -> Record:
    """Return a condition that lasts for a while after a counter rose."""
    return Record(held(name), f"max by ({by}) ({increase(counter, seconds)}) > 0")


LOSSES = (
    recently("source_coverage_gap", "jobrun_source_unobserved_seconds_total", limits.GAP_SHOWN),
    Alert(
        name="JobrunSourceCoverageGap",
        expression=held("source_coverage_gap"),
        summary=f"Runs of {texts.SOURCE} in a period of {{{{ humanizeDuration $value }}}} were never read",
        description=(
            f"The API of {texts.SOURCE} no longer shows the runs that completed in a period of "
            "{{ humanizeDuration $value }}, and the exporter has not read them. They are in no counter, and no alert "
            "reported them."
        ),
        links=texts.of_source("JobrunSourceCoverageGap"),
    ),
    recently("source_truncated", "jobrun_source_truncated_responses_total", limits.TRUNCATED_SHOWN),
    Alert(
        name="JobrunSourceTruncated",
        expression=held("source_truncated"),
        summary=f"Responses of {texts.SOURCE} are truncated",
        description=(
            f"In the last hour the API of {texts.SOURCE} truncated {{{{ $value }}}} responses. The exporter requests "
            "the missing runs again, which costs requests. Some APIs do not show all of them."
        ),
        links=texts.of_source("JobrunSourceTruncated"),
    ),
    recently(
        "source_unmapped_status",
        "jobrun_source_unmapped_status_total",
        limits.UNMAPPED_SHOWN,
        "job, source, status",
    ),
    Alert(
        name="JobrunSourceUnmappedStatus",
        expression=held("source_unmapped_status"),
        summary=f"Source {texts.SOURCE} uses an unknown status, {texts.safe('$labels.status')}",
        description=(
            f"In the last 6 hours {{{{ $value }}}} runs of {texts.SOURCE} had the status "
            f"{texts.safe('$labels.status')}, "
            "which the exporter does not know. They count as unknown, so no alert reports them if they failed."
        ),
        links=texts.of_source("JobrunSourceUnmappedStatus"),
    ),
)

ACCESS = (
    Record(
        held("source_rate_limit_low"),
        condition(
            "source_rate_limit_low",
            f"""min by (job, source) (
  jobrun_source_rate_limit_remaining_requests / jobrun_source_rate_limit_limit_requests
  unless
  jobrun_source_rate_limit_reset_timestamp_seconds < time()
) < {limits.LOW_RATE_LIMIT}""",
        ),
    ),
    Alert(
        name="JobrunSourceRateLimitLow",
        expression=held("source_rate_limit_low"),
        summary=f"Source {texts.SOURCE} has {{{{ humanizePercentage $value }}}} of its requests left",
        description=(
            f"Less than a tenth of the API's rate limit of {texts.SOURCE} has been left for 10 minutes. The exporter "
            "sends fewer requests, so runs are seen later."
        ),
        links=texts.of_source("JobrunSourceRateLimitLow"),
    ),
    Record(
        held("source_credential_expiring"),
        condition(
            "source_credential_expiring",
            f"""max by (job, source) (
  jobrun_source_credential_expiry_timestamp_seconds
  and
  jobrun_source_last_poll_timestamp_seconds
  > jobrun_source_credential_expiry_timestamp_seconds - {limits.CREDENTIAL_MARGIN}
  or
  (jobrun_source_credential_expiry_timestamp_seconds < time() + {limits.CREDENTIAL_WARNING})
  == jobrun_source_credential_expiry_timestamp_seconds offset {window(limits.RENEWED_DAILY)}
)""",
        ),
        """Tokens are renewed minutes before they expire, so a token that is used in its last minute was not renewed. A
        credential that has not changed for a day is a key, which a person must replace.""",
    ),
    Alert(
        name="JobrunSourceCredentialExpiring",
        expression=held("source_credential_expiring"),
        summary=f"The credential of {texts.SOURCE} is not renewed",
        description=(
            f"The exporter's credential for {texts.SOURCE} expires at {{{{ humanizeTimestamp $value }}}} and was not "
            "renewed. Without a valid credential it can read nothing."
        ),
        links=texts.of_source("JobrunSourceCredentialExpiring"),
    ),
    Alert(
        name="JobrunSourceNameClash",
        expression="""
        count by (job, source) (count by (job, source, provider, api_url) (jobrun_source_info)) > 1
        or
        (
          count by (job, source) (count by (job, source, project, job_name) (jobrun_job_info))
          - max by (job, source) (count by (job, instance, source) (jobrun_job_info))
        )
        > 0.5 * min by (job, source) (count by (job, instance, source) (jobrun_job_info))
        """,
        summary=f"Several sources are called {texts.SOURCE}",
        description=(
            f"Exporters of the scrape job {{{{ $labels.job }}}} read different APIs, or different jobs, under the name "
            f"{texts.SOURCE}. The rules take them for one source and watch only one of them."
        ),
        links=texts.of_source("JobrunSourceNameClash"),
        why="""Exporters of one scrape job use one name for different sources: their APIs differ, or their jobs do. Jobs
        differ if the exporter with the most jobs lacks many jobs of the others: more than half the number of jobs of
        the exporter with the fewest. An exporter that has just started has fewer jobs, but none that the others
        lack.""",
    ),
)

GROUP = Group("jobrun-sources", (*AVAILABLE, *LOSSES, *ACCESS))
