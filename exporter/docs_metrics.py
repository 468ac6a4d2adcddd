"""docs/metrics.md, made from the table of families: `python -m exporter.docs_metrics > docs/metrics.md`."""

import sys
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client.metrics_core import Metric

from exporter.families import FAMILIES, Family, Level

INTRODUCTION = """# Metrics

Made from the table of families by `python -m exporter.docs_metrics`; changes belong there.

Timestamps are Unix seconds. What is not known is absent, not 0. `project` is what holds the job in its system.
`result`, and `status` of `jobrun_last_run_status`, is one of `success`, `failure`, `error`, `timeout`, `cancellation`,
`skip` and `unknown`; `state` is `pending` or `executing`. `__other__` stands for everything beyond a bound.
A new series of a counter or histogram shows 0 for a while before its first value, so that `increase()` sees it.
Counters of runs in OpenMetrics carry the id of the newest run as an exemplar.
"""

TITLES = {Level.JOB: "Jobs", Level.SOURCE: "Sources", Level.EXPORTER: "The exporter"}


class Entry(msgspec.Struct, frozen=True):
    """What the page says of a family."""

    name: str
    kind: str
    labels: Sequence[str]
    help: str


def of_family(family: Family) -> Entry:
    """The entry of a row of the table."""
    return Entry(family.name, family.kind, family.all_labels, family.help)


def of_metric(metric: Metric) -> Entry:
    """The entry of one of the client library's families, its labels those of the samples that it has."""
    labels = {label: None for sample in metric.samples for label in sample.labels if label != "le"}
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return Entry(name, metric.type, tuple(labels), metric.documentation)


def document(metrics: Iterable[Metric] = ()) -> str:
    """The page. `metrics`: what the registry collects, beside the table."""
    entries = {title: [of_family(each) for each in FAMILIES if each.level is level] for level, title in TITLES.items()}
    for metric in metrics:
        level = Level.SOURCE if metric.name.startswith("jobrun_source_") else Level.EXPORTER
        entries[TITLES[level]].append(of_metric(metric))
    return "\n".join([INTRODUCTION, *(line for title, rows in entries.items() for line in _section(title, rows))])


def _section(title: str, entries: Iterable[Entry]) -> Iterator[str]:
    yield from (f"## {title}", "", "| metric | type | labels | meaning |", "|---|---|---|---|")
    for entry in entries:
        labels = ", ".join(f"`{label}`" for label in entry.labels)
        meaning = entry.help.replace("|", r"\|")
        yield f"| `{entry.name}` | {entry.kind} | {labels} | {meaning} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(document())
