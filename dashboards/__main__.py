"""Writes the dashboards: `python -m dashboards [FOLDER]`, by default `grafana/` of the source tree."""

import json
import sys
from pathlib import Path

from dashboards.exporter import EXPORTER
from dashboards.job import JOB_DASHBOARD
from dashboards.model import Dashboard
from dashboards.overview import OVERVIEW

DASHBOARDS = (OVERVIEW, JOB_DASHBOARD, EXPORTER)
FOLDER = Path(__file__).parent.parent / "grafana"


def text(dashboard: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(dashboard.json(), indent=2, ensure_ascii=False) + "\n"


def write(folder: Path) -> None:
    """Writes all dashboards into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (folder / f"{dashboard.uid}.json").write_text(text(dashboard), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
