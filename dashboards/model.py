"""The JSON model of a dashboard: queries, panels, and where panels go."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

Json = dict[str, Any]

DATASOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION: Final = 42
COLUMNS: Final = 24
"""The width of Grafana's grid."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One PromQL query of a panel.

    Attributes:
        expression: PromQL.
        legend: Name of each series.
        form: `time_series`, `table` or `heatmap`.
        timestamp: Only the newest values.
        exemplars: With exemplars.
        interval: Minimum step between two points, if it differs from that of the panel.
    """

    expression: str
    legend: str = "__auto"
    form: str = "time_series"
    timestamp: bool = False
    exemplars: bool = False
    interval: str = ""

    def json(self, reference: str) -> Json:
        """Return the target with its letter."""
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "exemplar": self.exemplars,
            "expr": self.expression,
            "format": self.form,
            "instant": self.timestamp,
            "legendFormat": self.legend,
            "range": not self.timestamp,
            "refId": reference,
            **({"interval": self.interval} if self.interval else {}),
        }


def letter_of(index: int) -> str:
    """Return the letter of a panel's query by its index."""
    return chr(ord("A") + index)


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One panel.

    Attributes:
        kind: Grafana's name of the visualization.
        title: A few words.
        description: What it shows, and what that means.
        queries: Its queries, which get letters in this order.
        size: Width in columns of 24 and height in rows of 30 pixels.
        unit: Grafana's id of the unit.
        defaults: Field configuration beyond the unit.
        custom: Field configuration of this kind of panel.
        options: Options of this kind of panel.
        overrides: Field configuration of some fields.
        transformations: Transformations of the results.
        interval: Minimum step between two points; "" for that of the data source.
        points: Maximum number of points; None for one per pixel.
    """

    kind: str
    title: str
    description: str
    queries: Sequence[Query]
    size: tuple[int, int]
    unit: str
    defaults: Json = {}
    custom: Json = {}
    options: Json = {}
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()
    interval: str = ""
    points: int | None = None

    def json(self, number: int, place: tuple[int, int]) -> Json:
        """Return the panel with its ID and its upper left corner."""
        (x, y), (width, height) = place, self.size
        limits: Json = {"interval": self.interval} if self.interval else {}
        limits |= {"maxDataPoints": self.points} if self.points else {}
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATASOURCE,
            "gridPos": {"h": height, "w": width, "x": x, "y": y},
            "targets": [query.json(letter_of(index)) for index, query in enumerate(self.queries)],
            "fieldConfig": {
                "defaults": {"unit": self.unit, **self.defaults, "custom": self.custom},
                "overrides": list(self.overrides),
            },
            "options": self.options,
            "transformations": list(self.transformations),
            **limits,
        }


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Panels under a heading. A collapsed row sends no queries until it is opened."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """One dashboard; `since`: its default time range, such as `24h`."""

    uid: str
    title: str
    description: str
    since: str
    variables: Sequence[Json]
    annotations: Sequence[Json]
    rows: Sequence[Row]
    refresh: str = "1m"

    def json(self) -> Json:
        """Return the JSON that Grafana imports."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["jobrun"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": self.refresh,
            "time": {"from": f"now-{self.since}", "to": "now"},
            "timezone": "browser",
            "links": LINKS,
            "annotations": {"list": list(self.annotations)},
            "templating": {"list": list(self.variables)},
            "panels": arranged(self.rows),
        }


LINKS: Final[list[Json]] = [
    {
        "title": "Job runs",
        "type": "dashboards",
        "tags": ["jobrun"],
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "",
        "url": "",
    },
]


def arranged(rows: Sequence[Row]) -> list[Json]:
    """Return the panels of all rows, each at the first free place below its heading."""
    panels: list[Json] = []
    top, number = 0, 0
    for row in rows:
        number += 1
        heading = {"id": number, "type": "row", "title": row.title, "collapsed": row.collapsed, "panels": []}
        heading["gridPos"] = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
        inside, bottom = _placed(row.panels, number + 1, top + 1)
        number += len(inside)
        if row.collapsed:
            heading["panels"] = inside
        panels += [heading] if row.collapsed else [heading, *inside]
        top = top + 1 if row.collapsed else bottom
    return panels


def _placed(panels: Sequence[Panel], number: int, top: int) -> tuple[list[Json], int]:
    """Return the panels with IDs from `number` and places from `top`, and the row below them."""
    heights = [top] * COLUMNS
    placed = []
    for index, panel in enumerate(panels):
        width, height = panel.size
        x = min(range(COLUMNS - width + 1), key=lambda left: max(heights[left : left + width]))
        y = max(heights[x : x + width])
        heights[x : x + width] = [y + height] * width
        placed.append(panel.json(number + index, (x, y)))
    return placed, max(heights)
