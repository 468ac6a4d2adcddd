"""The kinds of panels. All panels of a kind look the same."""

from collections.abc import Iterable, Sequence
from typing import Final, TypedDict, Unpack

import msgspec

from dashboards.model import Json, Panel, Query, letter_of
from dashboards.words import NEUTRAL, PLAIN, UNKNOWN, as_background, shades_of, unknown


class Look(msgspec.Struct, frozen=True):
    """The common parts of all panels of a kind: Grafana's visualization, its options and its field configuration."""

    kind: str
    options: Json = {}
    custom: Json = {}
    defaults: Json = {}


LAST: Final[Json] = {"calcs": ["lastNotNull"], "fields": "", "values": False}
LEGEND: Final[Json] = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
TOOLTIP: Final[Json] = {"mode": "multi", "sort": "desc"}
BY_THRESHOLD: Final[Json] = {"color": {"mode": "thresholds"}, "thresholds": NEUTRAL}
BY_SERIES: Final[Json] = {"color": shades_of("purple")}
"""Colors of sources and instances. Grafana's classic palette begins with the colors of severities."""
BY_SOURCE: Final = [
    {
        "matcher": {"id": "byRegexp", "options": f"/{system}/i"},
        "properties": [{"id": "color", "value": shades_of(color)}],
    }
    for system, color in {"workato": "#1f9aa8", "northflank": "#d44fa8", "strait": "#a07c30"}.items()
]
"""Colors of sources that are named after their system; the others have shades of purple."""
STAT: Final[Json] = {
    "colorMode": "background_solid",
    "graphMode": "none",
    "justifyMode": "center",
    "orientation": "auto",
    "reduceOptions": LAST,
    "textMode": "value",
    "wideLayout": True,
}
LINE: Final[Json] = {
    "drawStyle": "line",
    "lineInterpolation": "stepAfter",
    "lineWidth": 2,
    "fillOpacity": 8,
    "showPoints": "auto",
    "spanNulls": False,
    "axisSoftMin": 0,
    "stacking": {"mode": "none", "group": "A"},
    "thresholdsStyle": {"mode": "off"},
}
BAR: Final[Json] = {
    **LINE,
    "drawStyle": "bars",
    "showPoints": "never",
    "lineWidth": 0,
    "fillOpacity": 85,
    "axisSoftMax": 1,
    "stacking": {"mode": "normal", "group": "A"},
}
GAUGE: Final[Json] = {
    "displayMode": "basic",
    "orientation": "horizontal",
    "reduceOptions": LAST,
    "showUnfilled": True,
    "valueMode": "color",
    "namePlacement": "auto",
    "minVizHeight": 14,
    "maxVizHeight": 28,
    "minVizWidth": 8,
    "sizing": "auto",
}
TIMELINE: Final[Json] = {
    "mergeValues": True,
    "rowHeight": 0.85,
    "showValue": "never",
    "alignValue": "left",
    "legend": LEGEND,
    "tooltip": {"mode": "single", "sort": "none"},
}
HEATMAP: Final[Json] = {
    "calculate": False,
    "cellGap": 1,
    "color": {"mode": "opacity", "fill": "blue", "scale": "exponential", "exponent": 0.5, "steps": 32, "min": 0},
    "filterValues": {"le": 0.5},
    "legend": {"show": True},
    "rowsFrame": {"layout": "auto"},
    "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
    "yAxis": {"axisPlacement": "left", "reverse": False, "unit": "s"},
}
CELL: Final[Json] = {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False, "filterable": False}

NOT_SCRAPED: Final[Json] = {"noValue": "No data: no exporter was scraped in this time."}
NOTHING: Final[Json] = {"noValue": "No data in this range, or no exporter was scraped."}
CELLS: Final = {
    "gauge": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
    "color-background": {"type": "color-background", "mode": "basic"},
    "wrapped": {"type": "auto", "wrapText": True},  # before Grafana 12.2; then custom.wrapText
}

LOOKS: Final = {
    "stat": Look("stat", STAT, {}, {**BY_THRESHOLD, "thresholds": UNKNOWN}),
    "lines": Look("timeseries", {"legend": LEGEND, "tooltip": TOOLTIP}, LINE, {**BY_SERIES, **NOT_SCRAPED}),
    "bars": Look("timeseries", {"legend": LEGEND, "tooltip": TOOLTIP}, BAR, {**BY_SERIES, **NOTHING, "decimals": 0}),
    "gauges": Look("bargauge", GAUGE, {}, {**BY_THRESHOLD, **NOT_SCRAPED, "min": 0}),
    "timeline": Look("state-timeline", TIMELINE, {"fillOpacity": 80, "lineWidth": 0}, BY_THRESHOLD),
    "heatmap": Look("heatmap", HEATMAP),
    "table": Look("table", {"cellHeight": "sm", "showHeader": True}, CELL, BY_THRESHOLD),
}


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a table.

    Attributes:
        field: A label, or `Value #` and the letter of a query (`Value` if there is only one query).
        title: Its heading; "" hides the column but keeps its values for links.
        unit: Grafana's ID of the unit.
        width: Width in pixels; None shares the remaining width.
        cell: Grafana's type of cell.
        thresholds: Thresholds of its colors.
        mappings: Texts and colors of values.
        link: URL and title of the link.
        defaults: Further field configuration.
    """

    field: str
    title: str = ""
    unit: str = ""
    width: int | None = None
    cell: str = "auto"
    thresholds: Json = {}
    mappings: Sequence[Json] = ()
    link: tuple[str, str] | None = None
    defaults: Json = {}

    def override(self) -> Json:
        """Return Grafana's override for this field."""
        values = {
            "displayName": self.title or None,
            # Otherwise an ID of digits would be shown as a number.
            "unit": self.unit or (None if self.field.startswith("Value") else "string"),
            "custom.width": self.width,
            "custom.cellOptions": CELLS.get(self.cell, {"type": self.cell}),
            "custom.wrapText": True if self.cell == "wrapped" else None,
            "thresholds": self.thresholds or None,
            "mappings": list(self.mappings) or None,
            # Otherwise its bars would be scaled by the largest number of the whole table.
            "fieldMinMax": True if self.cell == "gauge" and "max" not in self.defaults else None,
            "links": [link(*self.link)] if self.link else None,
            "custom.hideFrom": None if self.title else {"viz": True},
            "custom.hidden": None if self.title else True,  # the same, before Grafana 12.2
            "noValue": "-",  # the text of the panel says why there is no row
            **self.defaults,
        }
        properties = [{"id": name, "value": value} for name, value in values.items() if value is not None]
        if self.cell == "color-background":
            properties = as_background(properties)
        return {"matcher": {"id": "byName", "options": self.field}, "properties": properties}


def link(title: str, url: str) -> Json:
    """Return a data link, which opens in another tab if it leaves Grafana."""
    return {"title": title, "url": url, "targetBlank": not url.startswith("/")}


class Own(TypedDict, total=False):
    """Parts of a panel that are not defined by its kind: see `Panel`; `columns` and `needed`: see `tabulated`."""

    unit: str
    thresholds: Json
    mappings: Sequence[Json]
    defaults: Json
    custom: Json
    options: Json
    overrides: Sequence[Json]
    columns: Sequence[Column]
    needed: str
    interval: str
    points: int


def panel(look: str, title: str, description: str, *queries: Query, size: tuple[int, int], **own: Unpack[Own]) -> Panel:
    """Return a panel with one of `LOOKS` and its own parts."""
    common = LOOKS[look]
    fields: Json = {key: own[key] for key in ("thresholds", "mappings") if key in own}
    transformations, overrides = (
        tabulated(own["columns"], own.get("needed", "")) if "columns" in own else ((), own.get("overrides", ()))
    )
    if look in {"lines", "bars"} and queries[0].legend == "{{source}}":
        overrides = BY_SOURCE
    defaults = {**common.defaults, **fields, **own.get("defaults", {})}
    options = {**common.options, **own.get("options", {})}
    if options.get("colorMode") == "background_solid":
        defaults, overrides = as_background(defaults), as_background(overrides)
    return Panel(
        kind=common.kind,
        title=title,
        description=description,
        queries=queries,
        size=size,
        unit=own.get("unit", "short"),
        defaults=defaults,
        custom={**common.custom, **own.get("custom", {})},
        options=options,
        overrides=overrides,
        transformations=transformations,
        interval=own.get("interval", ""),
        points=own.get("points"),
    )


class Tile(msgspec.Struct, frozen=True, kw_only=True):
    """A number among others.

    Attributes:
        name: What it is; may have labels of the series.
        expression: PromQL of one series.
        otherwise: Text without a value.
        unit: Grafana's ID of the unit.
        thresholds: Thresholds of its colors; {} for none.
        mappings: Texts and colors of values.
        link: Data link.
    """

    name: str
    expression: str
    otherwise: str
    unit: str = "short"
    decimals: int | None = None
    thresholds: Json = {}
    mappings: Sequence[Json] = ()
    link: Json = {}

    def override(self, letter: str) -> Json:
        """Return Grafana's override for the result of this query."""
        values = {
            "unit": self.unit,
            "decimals": self.decimals,
            "thresholds": self.thresholds or PLAIN,
            "mappings": [*self.mappings, unknown(self.otherwise)],
            "links": [self.link] if self.link else None,
        }
        properties = [{"id": name, "value": value} for name, value in values.items() if value is not None]
        return {"matcher": {"id": "byFrameRefID", "options": letter}, "properties": properties}


ELSE: Final = "\nor on () vector(NaN)"
"""Keeps the tile of an expression without a result, which Grafana would omit."""


def tiles(title: str, description: str, *each: Tile, width: int = 24, overrides: Sequence[Json] = ()) -> Panel:
    """Return one panel with all these numbers, which needs little space on a narrow screen too."""
    return panel(
        "stat",
        title,
        description,
        *(timestamp(f"{tile.expression}{ELSE}", tile.name) for tile in each),
        size=(width, 4),
        options={"textMode": "value_and_name", "wideLayout": False, "text": {"titleSize": 14, "valueSize": 22}},
        defaults={"noValue": "No data: no exporter is scraped, or Prometheus cannot be queried."},
        overrides=[*(tile.override(letter_of(index)) for index, tile in enumerate(each)), *overrides],
    )


def timestamp(expression: str, legend: str = "__auto") -> Query:
    """Return a query for the newest values."""
    return Query(expression=expression, legend=legend, timestamp=True)


def over_time(expression: str, legend: str = "__auto", *, exemplars: bool = False, interval: str = "") -> Query:
    """Return a query for the values over the whole range."""
    return Query(expression=expression, legend=legend, exemplars=exemplars, interval=interval)


def listed(expression: str) -> Query:
    """Return a query for the newest values as rows of a table, one column per label."""
    return Query(expression=expression, form="table", timestamp=True)


def sort_by(*columns: tuple[str, bool]) -> Json:
    """Return the option that sorts a table by columns, given by title; True: largest first."""
    return {"sortBy": [{"displayName": title, "desc": largest} for title, largest in columns]}


def buckets(expression: str) -> Query:
    """Return a query for a histogram's buckets over the whole range."""
    return Query(expression=expression, legend="{{le}}", form="heatmap")


def called(names: Iterable[str]) -> list[Json]:
    """Return overrides that name the result of each query, because Grafana omits the legend of a single result."""
    return [
        {
            "matcher": {"id": "byFrameRefID", "options": letter_of(index)},
            "properties": [{"id": "displayName", "value": name}],
        }
        for index, name in enumerate(names)
    ]


def tabulated(wanted: Sequence[Column], needed: str = "") -> tuple[list[Json], list[Json]]:
    """Return the transformations and overrides of a table with only these columns, in this order.

    Rows without a value in the field `needed` are omitted, because other queries may return more jobs.
    """
    order = {each.field: index for index, each in enumerate(wanted)}
    has_value = {"fieldName": needed, "config": {"id": "isNotNull", "options": {}}}
    rows = {"id": "filterByValue", "options": {"filters": [has_value], "match": "all", "type": "include"}}
    transformations: list[Json] = [
        {"id": "merge", "options": {}},
        *([rows] if needed else []),
        {"id": "filterFieldsByName", "options": {"include": {"names": list(order)}}},
        {"id": "organize", "options": {"indexByName": order, "excludeByName": {}, "renameByName": {}}},
    ]
    return transformations, [each.override() for each in wanted]
