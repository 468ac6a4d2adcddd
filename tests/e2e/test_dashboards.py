"""Every expression of every dashboard returns data in a real Prometheus that scrapes the demo."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dashboards.panels import ELSE
from dashboards.words import NEARLY
from exporter.simulators.demo import PLANS
from tests.e2e.processes import Command, eventually
from tests.e2e.servers import VERSIONS, Prometheus
from tests.monitoring.dashboard_files import JSONS, STEP, expressions, filled, last_step, panels

pytestmark = pytest.mark.e2e

RULES = Path(__file__).parents[2] / "prometheus/rules/jobrun-exporter.yml"
RARE = {
    "jobrun_source_unmapped_status_total": "a system uses a status that the exporter knows",
    "jobrun_exporter_series_overflow_total": "there is room for all series",
    "jobrun_exporter_replicas": "one process has the state for itself",
    "jobrun_source_owner": "one process has the state for itself",
    "jobrun_exporter_lease_lost_total": "one process has the state for itself",
}
"""Series that exist only while there is a problem or many replicas, and their replacement in the demo."""
NEVER = {
    "jobrun-exporter-Endpoints in this time-B": "no request is refused",
    "jobrun-job-Results, active runs and problems-C": "no run is as late as that yet",
    "jobrun-job-Results, active runs and problems-E": "each source can be read",
}
"""Expressions without a result while there is no problem, and why."""

JOBS = [
    {"source": vendor, "project": plan.project, "job_name": plan.name}
    for vendor, plans in PLANS.items()
    for plan in plans
]
"""Values of the variables of a job's page; no job of the demo has everything."""
USUAL = 'source_project_job_name:jobrun_run_duration_seconds:p95_7d{job_name="sessions-incremental"}'
"""The series that takes longest to be recorded, because it needs five successes."""
EVERYTHING = dict.fromkeys(("source", "project", "job_name", "team"), ".*") | {"job": ".+", "instance": ".+"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of a demo."""
    command = Command(tmp_path_factory.mktemp("demo"), "demo", "--web.listen-address=127.0.0.1:0", "--speed=600")
    try:
        said = eventually(lambda: re.search(r"^metrics: http://127\.0\.0\.1:(\d+)/", command.output, re.MULTILINE))
        assert said, command.output
        yield int(said[1])
    finally:
        command.end()


@pytest.fixture(scope="module", params=VERSIONS)
def prometheus(
    request: pytest.FixtureRequest, demo: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Return a server that has scraped the demo until everything is recorded."""
    folder = tmp_path_factory.mktemp("dashboards")
    settings = {"rule_files": [str(quick_rules(folder))]}
    server = Prometheus(folder / "prometheus", demo, version=request.param, settings=settings)
    try:
        assert server.ready()
        assert eventually(lambda: server.ask("query", query=USUAL), seconds=45), "nothing is recorded"
        yield server
    finally:
        server.end()


@pytest.fixture
def native(demo: int, tmp_path: Path) -> Iterator[Prometheus]:
    """Return the newest server, which converts classic histograms to native ones."""
    settings = {"global": {"convert_classic_histograms_to_nhcb": True}, "rule_files": [str(quick_rules(tmp_path))]}
    server = Prometheus(tmp_path / "prometheus", demo, "native-histograms", version="newest", settings=settings)
    try:
        assert server.ready()
        yield server
    finally:
        server.end()


def quick_rules(folder: Path) -> Path:
    """Return the rules, evaluated each second; alerts fire at once. Hourly rules need no full hour."""
    groups = yaml.safe_load(RULES.read_text().replace(":1h]", ":1d]"))["groups"]
    for group in groups:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule.pop("for", None)
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": groups}))
    return path


def answers(prometheus: Prometheus, expression: str) -> bool:
    """Return whether an expression has a result for some job; hourly ones for long ranges are queried by the second."""
    long = {"long": "1"} if ":1h]" in expression else {}
    pages = [{**EVERYTHING, **values, **long} for values in ({}, *JOBS)]
    requested = expression.replace(":1h]", ":1s]")
    queries = (filled(requested, __interval=f"{STEP}s", **values) for values in pages)
    return any(prometheus.ask("query", query=query, time=last_step(expression)) for query in queries)


def test_every_expression_returns_data(prometheus: Prometheus) -> None:
    requested = [
        # Whether something is near a limit is a matter of luck. The rest of a tile's expression always has a result.
        (place, each.replace(f">= {NEARLY}", ">= 0").removesuffix(ELSE))
        for place, each in expressions(JSONS)
        if place not in NEVER and not any(name in each for name in RARE)
    ]
    assert len(requested) > 80
    empty = eventually(
        lambda: [place for place, each in requested if not answers(prometheus, each)], lambda rest: not rest
    )
    assert empty == []


def test_durations_are_shown_if_prometheus_stores_native_histograms(native: Prometheus) -> None:
    requested = [(place, each) for place, each in expressions(JSONS) if "_bucket" in each]
    assert len(requested) == 8
    empty = eventually(
        lambda: [place for place, each in requested if not answers(native, each)], lambda rest: not rest, seconds=45
    )
    assert empty == []
    assert native.ask("query", query="jobrun_run_duration_seconds_bucket") == []


def recorded(server: Prometheus) -> set[str]:
    """Return the names of all recorded series but the two forms of a histogram's buckets."""
    found = server.ask("query", query='group by (__name__) ({__name__=~".+:.+"})')
    names = {each["metric"]["__name__"] for each in found}
    return {each for each in names if not re.search("seconds(_bucket)?:increase1h$", each)}


def test_every_rule_works_if_prometheus_stores_native_histograms(prometheus: Prometheus, native: Prometheus) -> None:
    assert USUAL.split("{", maxsplit=1)[0] in recorded(prometheus)
    # Both are asked again each time, because a run is slow only until the next one of its job ends.
    missing = eventually(lambda: recorded(prometheus) - recorded(native), lambda rest: not rest, seconds=45)
    assert missing == set()
    groups: list[dict] = native.ask("rules")["groups"]  # type: ignore[call-overload]  # no query
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []


def test_each_value_that_a_variable_offers_has_data(prometheus: Prometheus) -> None:
    for board in JSONS.values():
        for variable in board["templating"]["list"][1:]:
            if variable["hide"] or variable["type"] == "custom":
                continue
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]  # it matches, or the test fails
            choices = (filled(selector, **EVERYTHING | values) for values in ({}, *JOBS))
            assert any(prometheus.ask(f"label/{label}/values", **{"match[]": each}) for each in choices)


def test_a_dashboard_of_more_than_two_days_uses_the_long_range(prometheus: Prometheus) -> None:
    (variable,) = [each for each in JSONS["jobrun-overview"]["templating"]["list"] if each["name"] == "long"]
    (query,) = re.fullmatch(r"query_result\((.+)\)", variable["definition"]).groups()  # type: ignore[union-attr]  # it matches, or the test fails
    now = time.time()
    for days, long in ((1, "0"), (2, "0"), (2.01, "1"), (7, "1")):
        bounds = {"__from": str(int(1000 * (now - 86400 * days))), "__to": str(int(1000 * now))}
        (found,) = prometheus.ask("query", query=filled(query, **bounds))
        shown = f"{{}} {found['value'][1]} {1000 * found['value'][0]:.0f}"  # as Grafana writes a result
        assert re.search(variable["regex"].strip("/"), shown)[1] == long  # type: ignore[index]  # it matches, or the test fails


def test_annotations_show_what_happened(prometheus: Prometheus) -> None:
    for board in JSONS.values():
        shown = EVERYTHING | {"source": "snowplow"}
        restarts, reloads, outages = (filled(each["expr"], **shown) for each in board["annotations"]["list"])
        now = time.time()
        assert [
            now - 600 < float(each["value"][1]) / 1000 <= now for each in prometheus.ask("query", query=restarts)
        ] == [True]
        assert len(prometheus.ask("query", query=reloads)) == 1
        assert prometheus.ask("query", query=outages) == []
        assert prometheus.ask("query", query=outages.replace("1 - ", ""))


def test_exemplars_of_failures_and_durations_name_runs(prometheus: Prometheus) -> None:
    job = {"source": "snowplow", "project": "com.acme-prod1", "job_name": "marketing-costs"}
    asking = [
        target["expr"] for panel in panels(JSONS["jobrun-job"]) for target in panel["targets"] if target["exemplar"]
    ]
    for query in (filled(expression, **EVERYTHING | job) for expression in asking):

        def exemplars(query: str = query) -> list[dict]:
            return prometheus.ask("query_exemplars", query=query, start=time.time() - 600, end=time.time() + 60)

        found = eventually(exemplars)
        assert found, query
        assert all(each["labels"]["run_id"] for series in found for each in series["exemplars"])
