"""Writes docs/metrics.md from the table of families: `python -m exporter.metrics.docs > docs/metrics.md`."""

import sys
from collections.abc import Iterator

from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES
from exporter.metrics.family import Family, Level

INTRODUCTION = """# Metrics

`python -m exporter.metrics.docs` writes this page from the table in `exporter/metrics/families.py`.

Timestamps are Unix seconds. An unknown value is absent, not 0.

- `project` is the environment, customer or project of the job at its vendor.
- `result`, and `status` of `jobrun_last_run_status`, is `success`, `failure`, `error`, `timeout`, `cancellation`,
  `skip` or `unknown`.
- `state` is `pending` or `executing`.
- `__other__` counts the jobs, steps and error types that have no series of their own, because a limit is reached.
- Metrics that `metrics.exclude` of the config names are not served.

A new series of a counter or histogram shows 0 for a while before its first value. Otherwise `increase()` would miss
that value. In OpenMetrics, counters of runs have the ID of the newest run as exemplar.

## Stability

| stability | promise |
|---|---|
| `stable` | The name, the type, the labels and the meaning stay. A change is a new name. |
| `experimental` | May change or be removed in any release; the changelog says so. |
| `deprecated` | Still exposed; its text names the replacement. It is removed after at least two minor releases. |

A stable name is retired in three steps:

1. The replacement is exposed next to it.
2. The old name is `deprecated`. Its text, this page and `CHANGELOG.md` (**Deprecated**) name the replacement, and the
   shipped rules and dashboards no longer use the old name.
3. After at least two minor releases and six months it is removed, and `CHANGELOG.md` says so (**Removed**).

A stable metric never changes its meaning under the same name.
"""

TITLES = {
    Level.JOB: ("Jobs", "These values are committed with the runs, so a restart keeps them."),
    Level.SOURCE: ("Sources", "These values are committed with each poll, so a restart keeps them."),
    Level.EXPORTER: ("The exporter", "These values describe the state and the exposed series."),
    Level.PROCESS: (
        "The process",
        "These counters start at 0 with each process. `process_*` and `python_*` are served, too.",
    ),
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
