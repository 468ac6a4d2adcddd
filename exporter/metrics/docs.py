"""docs/metrics.md, made from the tables of families: `python -m exporter.metrics.docs > docs/metrics.md`."""

import sys
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from exporter.metrics import meters
from exporter.metrics.families import FAMILIES, Family, Level

INTRODUCTION = """# Metrics

Made from the tables of families by `python -m exporter.metrics.docs`; changes belong in those tables.

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


def of_own(family: meters.SourceFamily, common: tuple[str, ...] = ()) -> Entry:
    """The entry of a family that is kept by the client library."""
    return Entry(family.name, family.kind.__name__.lower(), (*common, *family.labels), family.help)


def document() -> str:
    """The page."""
    entries = {title: [of_family(each) for each in FAMILIES if each.level is level] for level, title in TITLES.items()}
    for family in meters.SOURCE_FAMILIES:
        entries[TITLES[Level.SOURCE]].append(of_own(family, ("source",)))
    for family in meters.EXPORTER_FAMILIES:
        entries[TITLES[Level.EXPORTER]].append(of_own(family))
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
