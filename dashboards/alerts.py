"""PromQL of firing alerts, so that a dashboard agrees with the alerts."""

from typing import Final

from alerting.model import RUNBOOKS
from dashboards.jobs import RULES_SEEN
from dashboards.model import Json, Panel
from dashboards.panels import Column, listed, panel, sort_by
from dashboards.words import INFO, LEVELS
from exporter.snapshot.conditions import KINDS

OF_JOBS: Final = (
    'job=~"$job|", source=~"$source", project=~"$project", job_name=~"$job_name", job_name!="", team=~"$team"'
)
OF_ONE_JOB: Final = 'job=~"$job|", source="$source", project="$project", job_name="$job_name"'
OF_OTHERS: Final = 'job=~"$job|", source=~"$source|", job_name=""'
"""Matchers of alerts of the selected sources, and of alerts about exporters, which may have no source."""
BY: Final = "max by (alertname, severity, job, source, project, job_name, team)"
RUNBOOK: Final = ("Open the runbook", RUNBOOKS + "#${__data.fields.runbook}")
ANCHORS: Final[Json] = {"type": "value", "options": {name: {"text": name.lower()} for name in KINDS}}
"""Value mapping of alerts to the anchors of their runbooks, which are in lower case."""


def firing(*choices: str, severity: str = "critical|warning|info") -> str:
    """Return the firing alerts of this severity, one series per alert. Each selection is a list of matchers."""
    common = f'alertname=~"Jobrun.*", alertstate="firing", severity=~"{severity}"'
    return f"({' or '.join(f'ALERTS{{{common}, {choice}}}' for choice in choices)})"


def counted(*choices: str, severity: str) -> str:
    """Return the number of firing alerts of this severity; no series if no rules are evaluated."""
    return f"count({firing(*choices, severity=severity)}) or 0 * count({RULES_SEEN})"


def table(title: str, *choices: str, size: tuple[int, int], whose: bool = True) -> Panel:
    """Return a table of firing alerts with runbooks, most severe and newest first; `whose`: columns of the job."""
    since = f'{BY} (time() - ALERTS_FOR_STATE{{alertname=~"Jobrun.*"}}) + 0 * {BY} ({firing(*choices)})'
    sorted_last = f'label_replace({since}, "severity", "{INFO.label}", "severity", "info")'
    with_runbook = f'label_replace({sorted_last}, "runbook", "$1", "alertname", "(.*)")'
    return panel(
        "table",
        title,
        "Firing alerts in Prometheus, including those that Alertmanager silences or inhibits. An alert links to its "
        "runbook. Some alerts fire for a few minutes after the problem ended.",
        listed(with_runbook),
        size=size,
        defaults={"noValue": "No alert fires, if Prometheus evaluates the alert rules."},
        options=sort_by(("Severity", False), ("Active for", False)),
        columns=(
            Column(field="severity", title="Severity", width=85, cell="color-background", mappings=[LEVELS]),
            Column(field="alertname", title="Alert", link=RUNBOOK, defaults={"custom.minWidth": 220}),
            *([job_column()] if whose else []),
            Column(field="Value", title="Active for", unit="s", width=95, defaults={"decimals": 1}),
            *(WHOSE if whose else []),
            Column(field="runbook", mappings=[ANCHORS]),
        ),
    )


def job_column(link: tuple[str, str] | None = None) -> Column:
    """Return the column of a job's name, which has all remaining width and wraps, because names often end alike."""
    return Column(field="job_name", title="Job", cell="wrapped", link=link, defaults={"custom.minWidth": 180})


WHOSE: Final = (
    Column(field="team", title="Team", width=120, cell="wrapped"),
    Column(field="project", title="Project", width=130, cell="wrapped"),
    Column(field="source", title="Source", width=100),
)
