"""Writes the rules: `python -m alerting [FILE]`, by default those of the source tree."""

import sys
from pathlib import Path

from alerting import exporters, jobs, recorded, sources

GROUPS = (
    exporters.GROUP,
    jobs.GROUP,
    recorded.STEP_GROUP,
    sources.GROUP,
    recorded.HOUR_GROUP,
    recorded.DAY_GROUP,
)
FILE = Path(__file__).parent.parent / "prometheus/rules/jobrun-exporter.yml"

HEAD = """\
# Alerts and recording rules for jobrun-exporter; for Prometheus 2.42 or newer. Load the file as it is:
#   rule_files: [jobrun-exporter.yml]
# Written by `python -m alerting`. What each alert means and what to do: docs/runbooks.md. How they decide: docs/alerts.md.
#
# - A source is a scrape job and a name (`job, source`). Of several exporters of one source the one that has read furthest
#   is believed.
# - Jobs are judged at the watermark, up to which all runs are counted, and not at the present: while nothing can be read
#   it stands still, so that an outage of an API never looks like a missed run.
# - Conditions are recorded (`jobrun:…:held`). While a source is not watched they stay as they were, for a week at most.
#   So nothing is reported as resolved that is not, and nothing must be muted.
# - An alert that says what a graver one says already does not start (`unless on (…) … ALERTS`). One that fires goes on.
# - Labels that an expression brings along for the annotations only are emptied under `labels`. So the next failed run
#   changes the text of an alert that fires, and does not make a new one.
# - `jobrun-exporter assets --external-url=… --grafana-url=…` fills in the links that are comments here.

groups:
"""


def text() -> str:
    """Return the file."""
    return HEAD + "\n".join(group.text() for group in GROUPS)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else FILE).write_text(text(), encoding="utf-8")
