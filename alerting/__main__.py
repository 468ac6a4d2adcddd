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
# Written by `python -m alerting`. What each alert means and what to do: docs/runbooks.md. How they work: docs/alerts.md.
#
# - A source is identified by scrape job and name (`job, source`). Among several exporters of one source, the one with the
#   newest watermark is used.
# - Conditions of jobs are evaluated at the watermark, up to which all runs are counted. It does not move while the API
#   cannot be read, so an outage never looks like a missed run.
# - Conditions are recorded (`jobrun:…:held`). While a source is not watched they do not change, for a week at most. So
#   nothing is reported as resolved by mistake, and nothing must be muted.
# - An alert does not start while a more severe one covers it (`unless on (…) … ALERTS`). One that fires already continues.
# - Labels that only the annotations use are emptied under `labels`. So the next failed run changes the text of a firing
#   alert and does not create a new one.
# - `jobrun-exporter assets --external-url=… --grafana-url=…` fills in the links that are comments here.

groups:
"""


def text() -> str:
    """Return the file."""
    return HEAD + "\n".join(group.text() for group in GROUPS)


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else FILE).write_text(text(), encoding="utf-8")
