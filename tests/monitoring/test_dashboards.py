"""Rules that all dashboards follow."""

import json
import re
from itertools import combinations
from pathlib import Path

import promql_parser as promql
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard as GrafanaDashboard

from dashboards.__main__ import DASHBOARDS, text, write
from dashboards.panels import ELSE
from dashboards.words import BACKGROUNDS, QUIET, RESULTS, SEVERITIES, STATES
from exporter.model import Result, State
from exporter.sources import SOURCES
from tests.monitoring.dashboard_files import FILES, FOLDER, JSONS, expressions, filled, panels
from tests.monitoring.expression_labels import TARGET, Inference, names_of, recorded_labels, series_labels

RULES = Path(FOLDER).parent / "prometheus/rules/jobrun-exporter.yml"
JOB = frozenset({"source", "project", "job_name"})
RECORDED = recorded_labels(RULES.read_text())
OF_PROMETHEUS = ("up", "scrape_duration_seconds", "scrape_samples_scraped")
OF_THE_PROCESS = ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds")
ALERT = JOB | {"job", "alertname", "severity", "team"}
ALERTS = {"ALERTS": ALERT | {"alertstate"}, "ALERTS_FOR_STATE": ALERT}
INFERENCE = Inference(
    {**series_labels(), **RECORDED, **ALERTS, **dict.fromkeys((*OF_PROMETHEUS, *OF_THE_PROCESS), TARGET)}
)

RISES = {"increase", "rate"}
GREY = BACKGROUNDS[QUIET]
WHITE, DARK = "#f7f8fa", "#202226"
"""Grafana's colors of text on a background; dark from a brightness of 180."""
NATIVE = {name.removesuffix("_bucket") for name in series_labels() if name.endswith("_bucket")}
WINDOWS = {"$__rate_interval", "$__range", "$__interval", "$__interval:1h", "1d", "1d:1m", "1d:5m"}
ALL_PANELS = [pytest.param(panel, id=f"{uid}-{panel['title']}") for uid in JSONS for panel in panels(JSONS[uid])]
ALL_EXPRESSIONS = [pytest.param(each, id=place) for place, each in expressions(JSONS)]

each_dashboard = pytest.mark.parametrize("board", JSONS.values(), ids=JSONS)
each_panel = pytest.mark.parametrize("panel", ALL_PANELS)
each_expression = pytest.mark.parametrize("expression", ALL_EXPRESSIONS)


def walk(node, *above):
    """Yield each node of an expression with its ancestors, the parent last."""
    yield node, above
    parts = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "param", "vector_selector")]
    for part in [*parts, *(getattr(node, "args", None) or ())]:
        if type(part).__module__.startswith("promql"):
            yield from walk(part, *above, node)


def selectors(expression):
    for node, above in walk(promql.parse(filled(expression))):
        if isinstance(node, promql.VectorSelector):
            yield from ((name, node, above) for name in names_of(node))


def is_counter(name):
    return name.endswith(("_total", "_bucket", "_sum", "_count")) or name in NATIVE


def is_filter(node, above):
    """Return whether a selector only filters other series: whether it is right of `and` or `unless`."""
    return any(
        isinstance(each, promql.BinaryExpr) and str(each.op) in {"and", "unless"} and pending_series(each.rhs, node)
        for each in above
    )


def pending_series(tree, node):
    return any(each is node or str(each) == str(node) for each, _ in walk(tree))


def references(node):
    """Yield every reference to a data source."""
    if isinstance(node, dict):
        yield from [node["datasource"]] if "datasource" in node else []
        yield from (each for value in node.values() for each in references(value))
    elif isinstance(node, list):
        yield from (each for value in node for each in references(value))


def cells(panel):
    place = panel["gridPos"]
    return {
        (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
    }


# --- the files ---


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_each_dashboard_file_is_generated_by_the_code(dashboard):
    assert FILES[dashboard.uid].read_text() == text(dashboard), "stale: python -m dashboards"


def test_every_dashboard_file_is_generated(tmp_path):
    write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in FOLDER.glob("*.json")}


@each_dashboard
def test_grafana_knows_every_key_of_a_dashboard(board):
    assert lost(board) == []


@pytest.mark.parametrize("misspelt", [{"optoins": {}}, {"options": {"collorMode": "value"}}])
def test_a_misspelled_key_is_noticed(misspelt):
    board = json.loads(json.dumps(JSONS["jobrun-overview"]))
    stat = next(panel for panel in board["panels"] if panel["type"] == "stat")
    stat |= {**misspelt, "options": {**stat["options"], **misspelt.get("options", {})}}
    assert lost(board | ({"optoins": {"a": 1}} if "optoins" in misspelt else {}))


def lost(board):
    """Return the keys of a dashboard that Grafana's own models do not know."""
    register_default_plugins()
    back = json.loads(json.dumps(GrafanaDashboard.from_json(board), cls=JSONEncoder))
    return list(missing(board, back, ""))


def missing(given, back, path):
    if isinstance(given, dict) and isinstance(back, dict):
        for key, value in given.items():
            if key in back:
                yield from missing(value, back[key], f"{path}.{key}")
            elif value or value == 0:
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(back, list) and len(given) == len(back):
        for index, pair in enumerate(zip(given, back, strict=True)):
            yield from missing(*pair, f"{path}[{index}]")
    elif given != back:
        yield path


# --- what the dashboard linter asks for ---


@each_dashboard
def test_the_data_source_is_chosen_and_never_named(board):
    first = board["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    assert {json.dumps(each) for each in references(board)} == {'{"type": "prometheus", "uid": "${datasource}"}'}


@each_dashboard
def test_a_dashboard_has_no_server_id_and_its_panel_ids_are_unique(board):
    assert "id" not in board
    numbers = [panel["id"] for panel in panels(board, rows=True)]
    assert len(numbers) == len(set(numbers))


@each_panel
def test_a_panel_has_a_description_and_a_unit(panel):
    assert panel["title"]
    assert panel["description"].endswith((".", "rules."))
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["noValue"], "why it is empty"
    assert panel["targets"]


@each_dashboard
def test_panels_do_not_overlap_and_stay_within_the_page(board):
    shown = panels(board, rows=True)
    assert max(panel["gridPos"]["x"] + panel["gridPos"]["w"] for panel in shown) == 24
    for one, other in combinations(board["panels"], 2):
        assert not cells(one) & cells(other), (one["title"], other["title"])


# --- expressions ---


@each_expression
def test_every_metric_and_label_exists(expression):
    INFERENCE.labels(filled(expression))


@each_expression
def test_only_increases_of_counters_are_queried_and_never_of_gauges(expression):
    for name, _, above in selectors(expression):
        calls = {each.func.name for each in above if isinstance(each, promql.Call)}
        rises = bool(calls & RISES) or f"- (max by (job, source, project, job_name, result) ({name}" in expression
        assert rises == is_counter(name), name


@each_expression
def test_two_exporters_of_the_same_runs_are_never_summed(expression):
    for name, node, above in selectors(expression):
        aggregates = [str(each.op) for each in above if isinstance(each, promql.AggregateExpr)]
        if name in {*ALERTS, *RECORDED} or is_filter(node, above) or f"absent({name}" in expression:
            continue
        if name in NATIVE:
            assert "topk by (job, source) (1, jobrun_source_watermark_timestamp_seconds)" in expression
            continue
        assert aggregates[-1] in {"max", "min", "topk", "count"}, name
        assert aggregates[-1] != "count" or f"0 * count({name}" in expression, name


@each_expression
def test_sources_of_two_teams_with_one_name_are_never_mixed(expression):
    for node, _ in walk(promql.parse(filled(expression))):
        labels = set(getattr(getattr(node, "modifier", None), "labels", None) or ())
        assert "source" not in labels or "job" in labels, str(node)


@each_expression
def test_every_series_belongs_to_the_selected_scrape_jobs(expression):
    for name, node, _ in selectors(expression):
        if name.startswith("job") and "topk by (job, source) (1, jobrun_source" not in expression:
            assert any(each.name == "job" and "$job" in each.value for each in node.matchers.matchers), name


@each_expression
def test_windows_are_the_dashboards_range_or_a_day(expression):
    assert set(re.findall(r"\[([^\]]+)\]", expression)) <= WINDOWS


@pytest.mark.parametrize("long", [0, 1])
def test_a_range_sums_either_samples_or_recorded_hours_and_never_both(long):
    (panel,) = [panel for panel in panels(JSONS["jobrun-overview"]) if panel["title"] == "Completed runs by result"]
    samples, hours = (filled(target["expr"], long=str(long)) for target in panel["targets"])
    assert "jobrun_runs_total" in samples
    assert "increase1h" in hours
    chosen = {
        query: {str(result) for result in Result if lets_through(query, str(result))} for query in (samples, hours)
    }
    everything = {str(result) for result in Result}
    assert chosen == {samples: set() if long else everything, hours: everything if long else set()}


def lets_through(expression, result):
    """Return whether the matchers of an expression allow this result."""
    ((operator, pattern),) = re.findall(r'result([=!]~)"([^"]+)"', expression)
    return bool(re.fullmatch(pattern, result)) == (operator == "=~")


@each_panel
def test_legends_and_columns_name_existing_labels(panel):
    labels = [INFERENCE.labels(filled(target["expr"])) for target in panel["targets"]]
    for target, known in zip(panel["targets"], labels, strict=True):
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known
    if panel["type"] == "table":
        values = {f"Value #{target['refId']}" for target in panel["targets"]} if len(labels) > 1 else {"Value"}
        fields = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
        assert fields <= frozenset().union(*labels) | values


# --- words, colors, links ---


def test_every_result_and_state_has_its_color():
    assert {each.word for each in RESULTS} == {str(result) for result in Result}
    assert {each.word for each in STATES} == {str(state) for state in State}
    codes = [each.code for each in (*RESULTS, *STATES)]
    assert len(codes) == len(set(codes))


def test_a_word_has_the_same_color_everywhere():
    colors = {each.word: {each.color} for each in (*RESULTS, *STATES)}
    for board in JSONS.values():
        for panel in panels(board):
            for override in panel["fieldConfig"]["overrides"]:
                for each in override["properties"]:
                    if each["id"] == "color" and override["matcher"]["options"] in colors:
                        colors[override["matcher"]["options"]].add(each["value"]["fixedColor"])
    assert {word: len(seen) for word, seen in colors.items() if len(seen) > 1} == {}


@each_panel
def test_an_unknown_number_is_never_green_and_says_that_it_is_unknown(panel):
    if panel["type"] != "stat":
        return
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"] in {GREY, "text"}
    for target in panel["targets"]:
        if target["expr"].endswith(ELSE):
            (own,) = [
                {each["id"]: each["value"] for each in override["properties"]}
                for override in panel["fieldConfig"]["overrides"]
                if override["matcher"]["options"] == target["refId"]
            ]
            assert own["thresholds"]["steps"][0]["color"] in {GREY, "transparent"}
            assert own["mappings"][-1]["options"]["match"] == "null+nan"
            assert own["mappings"][-1]["options"]["result"]["color"] == GREY
            assert own["mappings"][-1]["options"]["result"]["text"]


@each_panel
def test_text_on_a_color_has_enough_contrast_in_both_themes(panel):
    parts = [panel["fieldConfig"]] if panel["options"].get("colorMode") == "background_solid" else []
    parts += [
        override for override in panel["fieldConfig"]["overrides"] if '"color-background"' in json.dumps(override)
    ]
    for color in {each for part in parts for each in colors_in(part)} - {"transparent"}:
        assert re.fullmatch("#[0-9a-f]{6}", color), f"{color}: its shade depends on the theme"
        assert contrast(color, DARK if brightness(color) > 180 else WHITE) >= 4.5, color


def colors_in(node):
    if isinstance(node, dict):
        yield from (node[key] for key in ("color", "fixedColor") if isinstance(node.get(key), str))
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from colors_in(each)


def channels(color):
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]


def brightness(color):
    return sum(share * each for share, each in zip((0.299, 0.587, 0.114), channels(color), strict=True))


def luminance(color):
    shares = [each / 255 for each in channels(color)]
    linear = [each / 12.92 if each <= 0.04 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
    return sum(share * each for share, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@each_panel
def test_sources_and_instances_have_no_color_of_a_severity(panel):
    color = panel["fieldConfig"]["defaults"].get("color", {})
    assert color.get("mode") != "palette-classic", "it begins with green, yellow, blue, orange, red"
    if any(re.search("source|instance|replica", target["legendFormat"]) for target in panel["targets"]):
        # Each lost lease is a problem, so its color is that of a warning.
        assert color["mode"] == "thresholds" or panel["title"] == "Leases lost" or color["fixedColor"] == "purple"


def test_each_system_has_a_color_that_is_no_severity():
    (panel,) = [panel for panel in panels(JSONS["jobrun-exporter"]) if panel["title"] == "Age of the data"]
    colors = {each["matcher"]["options"]: set(colors_in(each)) for each in panel["fieldConfig"]["overrides"]}
    assert set(colors) == {f"/{system}/i" for system in set(SOURCES) - {"snowplow"}}, "which keeps the default"
    assert not set().union(*colors.values()) & {each.color for each in SEVERITIES}


def columns_of(panel):
    """Return the properties of each column of a table, in the order shown."""
    overrides = panel["fieldConfig"]["overrides"] if panel["type"] == "table" else ()
    columns = [{each["id"]: each["value"] for each in override["properties"]} for override in overrides]
    return [column for column in columns if "displayName" in column]


@each_panel
def test_the_name_of_a_job_wraps_and_has_the_remaining_width(panel):
    columns = columns_of(panel)
    for column in columns:
        if column["displayName"] == "Job":
            assert column["custom.cellOptions"] == {"type": "auto", "wrapText": True}
            assert column["custom.wrapText"] is True
            assert [each["displayName"] for each in columns if "custom.width" not in each] in (
                ["Job"],
                ["Alert", "Job"],
            )


def test_a_narrow_screen_shows_the_problems_of_a_source():
    (panel,) = [panel for panel in panels(JSONS["jobrun-exporter"]) if panel["title"].startswith("Sources and their")]
    columns, width = columns_of(panel), 0
    for index, column in enumerate(columns):
        width += column.get("custom.width") or column["custom.minWidth"]
        if column["displayName"] == "Unmapped":
            assert width <= 700 - 24, "the borders of the panel"
            assert {"thresholds"} & set().union(*columns[:index])
            assert not any("thresholds" in later for later in columns[index + 1 :])


def test_only_the_table_what_is_wrong_has_a_column_named_for():
    tables = {
        panel["title"]
        for board in JSONS.values()
        for panel in panels(board)
        if any(column["displayName"] == "For" for column in columns_of(panel))
    }
    assert tables == {"What is wrong"}


def test_a_duration_panel_of_a_job_without_a_run_does_not_blame_the_exporter():
    (panel,) = [panel for panel in panels(JSONS["jobrun-job"]) if panel["title"] == "Duration against the budget"]
    assert "scraped" not in panel["fieldConfig"]["defaults"]["noValue"]


@each_panel
def test_a_panel_of_many_numbers_keeps_those_without_a_value(panel):
    if panel["type"] == "stat" and len(panel["targets"]) > 1:
        assert all(target["expr"].endswith(ELSE) for target in panel["targets"])


def test_the_first_panels_of_the_overview_say_how_much_and_what_is_wrong():
    first, second = panels(JSONS["jobrun-overview"])[:2]
    assert (first["title"], second["title"]) == ("At a glance", "What is wrong")
    columns = [
        own["value"]
        for override in second["fieldConfig"]["overrides"]
        for own in override["properties"]
        if own["id"] == "displayName"
    ]
    assert columns[:6] == ["Severity", "What", "Job", "For", "Team", "Project"]
    order = {each["displayName"]: each["desc"] for each in second["options"]["sortBy"]}
    assert order == {"Severity": False, "For": False}, "the most severe first, then the newest"


def test_the_age_of_the_data_is_the_first_number_of_a_job():
    first = panels(JSONS["jobrun-job"])[0]
    assert first["targets"][0]["legendFormat"] == "Age of the data"


@each_panel
def test_bars_of_several_queries_are_named_even_if_only_one_returns_data(panel):
    if panel["type"] == "bargauge" and len(panel["targets"]) > 1:
        named = {
            override["matcher"]["options"]: [each["value"] for each in override["properties"]]
            for override in panel["fieldConfig"]["overrides"]
            if override["matcher"]["id"] == "byFrameRefID"
        }
        assert named == {target["refId"]: [target["legendFormat"]] for target in panel["targets"]}


@each_panel
def test_bars_in_tables_are_scaled_by_their_own_column(panel):
    for override in panel["fieldConfig"]["overrides"]:
        own = {each["id"]: each["value"] for each in override["properties"]}
        if (own.get("custom.cellOptions") or {}).get("type") == "gauge":
            assert "max" in own or own.get("fieldMinMax") is True


def test_links_lead_to_existing_dashboards_with_their_variables():
    linked = re.findall(r"/d/([\w-]+)\?([^\"]+)", json.dumps(JSONS))
    assert linked
    for uid, query in linked:
        known = {variable["name"] for variable in JSONS[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= known


def test_each_alert_that_fires_leads_to_its_runbook():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    (panel,) = [panel for panel in panels(JSONS["jobrun-overview"]) if panel["title"] == "Alerts that fire"]
    columns = {
        each["matcher"]["options"]: {own["id"]: own["value"] for own in each["properties"]}
        for each in panel["fieldConfig"]["overrides"]
    }
    (link,), (anchors,) = columns["alertname"]["links"], columns["runbook"]["mappings"]
    for name, rule in alerts.items():
        leads_to = link["url"].replace("${__data.fields.runbook}", anchors["options"][name]["text"])
        assert leads_to == rule["annotations"]["runbook_url"]


def test_run_ids_of_exemplars_link_to_the_runs():
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (destination,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "run_id"
    assert destination["url"].endswith("/runs?run_id=$${__value.raw}"), "a single $ would be an environment variable"
    asking = [panel["title"] for panel in panels(JSONS["jobrun-job"]) if any(t["exemplar"] for t in panel["targets"])]
    assert asking == ["Completed runs by result", "Duration against the budget"]


def test_dashboards_are_provisioned_from_where_images_put_them():
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/jobrun.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_the_readme_shows_every_dashboard():
    readme = (Path(FOLDER).parent / "README.md").read_text()
    for uid in JSONS:
        assert f"docs/pictures/{uid.removeprefix('jobrun-')}" in readme
