"""docs/metrics.md, made from the table of families: `python -m exporter.metrics.docs > docs/metrics.md`."""

import sys
from collections.abc import Iterator

from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES, Family, Level

INTRODUCTION = """# Metrics

Made from the table of families by `python -m exporter.metrics.docs`; changes belong in
`exporter/metrics/families.py`.

Timestamps are Unix seconds. What is not known is absent, not 0. `project` is what holds the job in its system.
`result`, and `status` of `jobrun_last_run_status`, is one of `success`, `failure`, `error`, `timeout`, `cancellation`,
`skip` and `unknown`; `state` is `pending` or `executing`. `__other__` stands for everything beyond a bound.
A new series of a counter or histogram shows 0 for a while before its first value, so that `increase()` sees it.
Counters of runs in OpenMetrics carry the ID of the newest run as an exemplar.

## Stability

| stability | promise |
|---|---|
| `stable` | The name, the type, the labels and the meaning stay. A change is a new name. |
| `experimental` | May change or go with any release; the changelog says so. |
| `deprecated` | Still served, and its text names what replaces it. Goes at the earliest two minor releases later. |

A stable name is retired in three steps. First the family that replaces it is served next to it. Then the old one is
`deprecated`: its text, `CHANGELOG.md` under **Deprecated** and this page name the new one, and no rule or dashboard of
ours uses the old one any more. At the earliest two minor releases and six months after that, it goes, and
`CHANGELOG.md` says so under **Removed**. A stable metric never changes its meaning under the same name.
"""

TITLES = {
    Level.JOB: ("Jobs", "Committed with the runs; the same after a restart."),
    Level.SOURCE: ("Sources", "Committed with each poll; the same after a restart."),
    Level.EXPORTER: ("The exporter", "About the state and what is served from it."),
    Level.PROCESS: ("The process", "Counters start at 0 with each process. `process_*` and `python_*` come with them."),
}


def document() -> str:
    """Return the page."""
    families = (*FAMILIES, *REQUEST_FAMILIES)
    sections = (_section(level, [each for each in families if each.level is level]) for level in TITLES)
    return "\n".join([INTRODUCTION, *(line for section in sections for line in section)])


def _section(level: Level, families: list[Family]) -> Iterator[str]:
    title, note = TITLES[level]
    yield from (
        f"## {title}",
        "",
        note,
        "",
        "| metric | type | labels | stability | meaning |",
        "|---|---|---|---|---|",
    )
    for family in families:
        labels = ", ".join(f"`{label}`" for label in family.all_labels)
        meaning = family.help.replace("|", r"\|")
        yield f"| `{family.name}` | {family.kind} | {labels} | {family.stability} | {meaning} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(document())
