"""Variables and annotations of a dashboard."""

from typing import Final

from dashboards.model import DATASOURCE, Json
from dashboards.words import BAD, NOTICE, QUIET

ANY: Final = ".*"
"""Also matches an empty label: a job without a team, a project without a name."""
SOME: Final = ".+"


def datasource_variable() -> Json:
    """Return the variable for the Prometheus data source."""
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "options": [],
        "current": {},
    }


def label_variable(name: str, label: str, selector: str, *, every: str = "") -> Json:
    """Return a variable for the values of a label among the series of a selector.

    `every` is the pattern for "All", which is then the default, and several values may be chosen.
    """
    every_value = {"allValue": every, "current": {"text": ["All"], "value": ["$__all"]}} if every else {"current": {}}
    return {
        **_query(name, label, f"label_values({selector}, {name})"),
        "regex": "",
        "sort": 1,
        "hide": 0,
        "multi": bool(every),
        "includeAll": bool(every),
        **every_value,
    }


def scrape_variable(metric: str) -> Json:
    """Return a variable for the scrape jobs that have a metric: two teams may have sources with the same name."""
    return label_variable("job", "Scrape job", metric, every=SOME)


def long_variable(milliseconds: int) -> Json:
    """Return the hidden variable `long`: 1 if the dashboard's range exceeds this many milliseconds, else 0."""
    query = f"query_result(vector(($__to - $__from) > bool {milliseconds}))"
    return {
        **_query("long", "Long range", query),
        "regex": r"/ (\d) /",
        "sort": 0,
        "hide": 2,
        "multi": False,
        "includeAll": False,
        "current": {"text": "0", "value": "0"},
    }


def choice_variable(name: str, label: str, choices: dict[str, str]) -> Json:
    """Return a variable with a text for each value; the first is the default."""
    options = [{"text": text, "value": value, "selected": not i} for i, (text, value) in enumerate(choices.items())]
    return {
        "name": name,
        "label": label,
        "type": "custom",
        "query": ", ".join(f"{text} : {value}" for text, value in choices.items()),
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "current": {"text": options[0]["text"], "value": options[0]["value"]},
        "options": options,
    }


def _query(name: str, label: str, query: str) -> Json:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "options": [],
    }


def annotations(source: str) -> list[Json]:
    """Return annotations that explain gaps and steps in graphs; `source`: matcher of the shown sources."""
    exporters = 'jobrun_exporter_build_info{job=~"$job"}'
    start = f"max by (job, instance) (process_start_time_seconds and on (job, instance) {exporters})"
    reload = 'max by (job, instance) (jobrun_exporter_config_last_reload_success_timestamp_seconds{job=~"$job"})'
    down = f'1 - max by (job, source) (jobrun_source_up{{job=~"$job", {source}}}) > 0'
    return [
        _annotation("Exporter restarts", f"1000 * {start}", "{{instance}} started", QUIET, at_value=True),
        _annotation("Configuration reloads", f"1000 * {reload}", "{{instance}} loaded", NOTICE, at_value=True),
        _annotation("Source outages", down, "{{source}} cannot be read", BAD, at_value=False),
    ]


def _annotation(name: str, expression: str, title: str, color: str, *, at_value: bool) -> Json:
    """Return an annotation at each sample above 0, or with `at_value` once at the time in the sample's value."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "target": {"refId": "Anno", "expr": expression, "interval": "60s", "legendFormat": title},
        "expr": expression,
        "step": "60s",
        "titleFormat": title,
        "textFormat": "",
        "tagKeys": "",
        "useValueForTime": at_value,
    }
