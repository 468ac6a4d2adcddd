"""The dashboards as Grafana gets them, and their expressions with the variables filled in."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "grafana"
FILES = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
JSONS: dict[str, dict[str, Any]] = {uid: json.loads(path.read_text()) for uid, path in FILES.items()}

STEP = 10
"""Seconds of a step of a graph."""

VARIABLES = {"__rate_interval": "1m", "__range": "1h", "__interval": "1m", "long": "0", "show": "0"}


def panels(board: Mapping[str, Any], *, rows: bool = False) -> list[dict[str, Any]]:
    """Return all panels, including those of collapsed rows; with `rows`, also the headings."""
    found = []
    for panel in board["panels"]:
        found += [panel, *panel.get("panels", ())]
    return [panel for panel in found if rows or panel["type"] != "row"]


def filled(expression: str, **values: str) -> str:
    """Return an expression with these values for the dashboard's variables, and fixed values for Grafana's own."""
    known = {**VARIABLES, **values}
    return re.sub(r"\$(\w+)", lambda match: known.get(match[1], match[0]), expression)


def last_step(expression: str) -> float:
    """Return the time at which the last step of a graph begins, if each step has STEP seconds."""
    return time.time() - (STEP if "offset -$__interval" in expression else 0)


def expressions(boards: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each expression, including those of variables, with its place."""
    for uid, board in boards.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield f"{uid}-{panel['title']}-{target['refId']}", target["expr"]
