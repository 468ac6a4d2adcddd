"""Parts of annotations. No text contains `: ` or ` #`, because some receivers parse each text as YAML."""

SAFE = '(:)( |$)|(^| )(#)" "${1}\\u00a0${4}'
"""Pattern and replacement: a name such as `load: all` or `load #7` gets a space that does not break."""


def safe(value: str) -> str:
    """Return a template that shows a value from a vendor, such as the name of a job."""
    return f'{{{{ reReplaceAll "{SAFE}" {value} }}}}'


def clause(label: str, words: str) -> str:
    """Return a template that shows `words` unless the label is empty; `.` in them becomes the label's value."""
    return f"{{{{ with $labels.{label} }}}}{words.replace('.', safe('.'))}{{{{ end }}}}"


NAME = f"{clause('project', './')}{safe('$labels.job_name')}"
"""The job."""
JOB = f"{NAME} ({safe('$labels.source')})"
"""The job and its source."""
SOURCE = safe("$labels.source")
GROUP = f"{{{{ with $labels.project }}}}{safe('.')} ({{{{ end }}}}{SOURCE}{{{{ if $labels.project }}}}){{{{ end }}}}"
"""A project of a source, or a source."""
STEP = clause("failed_step", " in step .")
ERROR = clause("error_type", " with .")
RUN_ID = safe("$labels.run_id")
RUN = f"run {RUN_ID}"

CRITICAL = (
    '{{ if eq $labels.page "warning" }}warning{{ else if eq $labels.page "none" }}info{{ else }}critical{{ end }}'
)
WARNING = '{{ if eq $labels.page "none" }}info{{ else }}warning{{ end }}'

QUERY = "source={{ urlquery $labels.source }}&project={{ urlquery $labels.project }}&job_name={{ urlquery $labels.job_name }}"
SOURCE_VARIABLES = "var-job={{ urlquery $labels.job }}&var-source={{ urlquery $labels.source }}"
VARIABLES = (
    f"{SOURCE_VARIABLES}&var-project={{{{ urlquery $labels.project }}}}"
    "&var-job_name={{ urlquery $labels.job_name }}"
)
EXPORTERS = {"dashboard_url": "<grafana-url>/d/jobrun-exporter?var-job={{ urlquery $labels.job }}"}
"""The link to the dashboard of all exporters of a scrape job."""


def of_job(alert: str, more: str = "") -> dict[str, str]:
    """Return the links of an alert of a job."""
    return {
        "runs_url": f"<external-url>/runs?{QUERY}{more}",
        "exporter_runbook_url": f"<external-url>/runbooks#{alert.lower()}",
        "dashboard_url": f"<grafana-url>/d/jobrun-job?{VARIABLES}",
    }


def of_project(alert: str) -> dict[str, str]:
    """Return the links of an alert of a project or source."""
    return {
        "runs_url": "<external-url>/runs?source={{ urlquery $labels.source }}"
        "{{ with $labels.project }}&project={{ urlquery . }}{{ end }}&result=failure",
        "exporter_runbook_url": f"<external-url>/runbooks#{alert.lower()}",
        "dashboard_url": f"<grafana-url>/d/jobrun-overview?{SOURCE_VARIABLES}",
    }


def of_source(alert: str) -> dict[str, str]:
    """Return the links of an alert of a source."""
    return {
        "page_url": "<external-url>/?source={{ urlquery $labels.source }}",
        "exporter_runbook_url": f"<external-url>/runbooks#{alert.lower()}",
        "dashboard_url": f"<grafana-url>/d/jobrun-exporter?{SOURCE_VARIABLES}",
    }


def of_exporter(alert: str) -> dict[str, str]:
    """Return the links of an alert about the exporter, whose own pages may be unavailable."""
    return {
        "page_url": "<external-url>/",
        "exporter_runbook_url": f"<external-url>/runbooks#{alert.lower()}",
        **EXPORTERS,
    }
