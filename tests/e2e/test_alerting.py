"""The whole way from a run to a pager: simulated vendor, daemon, Prometheus with the rules, Alertmanager, receiver."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from alerting.promql import PAGE_DELAY
from exporter.simulators.disruptions import Status
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import source, write_config
from tests.e2e.processes import HOST, Daemon, eventually, free_port
from tests.e2e.scrapes import page
from tests.e2e.servers import VERSIONS, Alertmanager, Prometheus, Receiver, receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MONITORING = Path(__file__).parents[2] / "prometheus"

SPEEDUP = 60
"""Factor by which waits are shorter than in the files that users load: minutes become seconds."""

HOUR = 3600.0

OBJECTIVES = [
    {"match": {"job_name": "late"}, "every": "1h"},
    {"match": {"job_name": "busy"}, "every": "5s"},
    {"match": {"job_name": "stuck"}, "duration_budget": "1h"},
    {"match": {"job_name": "failing"}, "team": "data-platform"},
]

UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def with_short_waits(duration: str) -> str:
    """Return a shorter duration; `1m` becomes `1000ms`."""
    number, unit = re.fullmatch(r"(\d+)([smhd])", duration).groups()  # type: ignore[union-attr]  # a test may fail here
    return f"{round(int(number) * UNIT[unit] * 1000 / SPEEDUP)}ms"


def fast_rules() -> dict[str, object]:
    """Return the rules that users load, with shorter waits and tolerances."""
    # The tolerance of 10 minutes is shortened less, because windows end seconds before now and a failing poll takes
    # seconds. So is the allowed absence of an exporter, because a start takes seconds.
    rules = yaml.safe_load((MONITORING / "rules" / "jobrun-exporter.yml").read_text())
    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\b600\b", str(1200 // SPEEDUP), rule["expr"])
            rule["expr"] = rule["expr"].replace(f"time() - {PAGE_DELAY}", f"time() - {PAGE_DELAY // SPEEDUP}")
            rule["expr"] = re.sub(r"\b([34])m\b", r"\1s", rule["expr"])
            rule |= {key: with_short_waits(rule[key]) for key in ("for", "keep_firing_for") if key in rule}
            if rule.get("alert") == "JobrunExporterAbsent":
                rule["for"] = "9s"
    return rules


def fast_routes(url: str) -> dict[str, object]:
    """Return the example config of Alertmanager with shorter waits, and all receivers at one address."""
    settings = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    settings["templates"] = [str(MONITORING / "templates" / "*.tmpl")]
    settings["route"] |= {key: with_short_waits(settings["route"][key]) for key in ("group_wait", "group_interval")}
    for each in settings["receivers"]:
        each["webhook_configs"] = [{"url": f"{url}{each['name']}", "send_resolved": True}]
    return settings


class AlertingPipeline:
    """A simulated vendor, a daemon, Prometheus, Alertmanager and a pager. `port`: of the daemon."""

    def __init__(self, folder: Path, version: str, world: ScriptedWorld, stack: ExitStack) -> None:
        self.world = world
        self.simulator = stack.enter_context(SnowplowSimulator(world))
        self.pager: Receiver = stack.enter_context(receiver())
        alertmanager = Alertmanager(folder / "alertmanager", fast_routes(self.pager.url), version=version)
        stack.callback(alertmanager.end)
        self.port = free_port()
        self._config = write_config(folder, self._settings(folder))
        self._daemon = Daemon(self._config, self.port)
        assert eventually(lambda: page(self.port)), self._daemon.log
        rules = folder / "rules.yml"
        rules.write_text(yaml.safe_dump(fast_rules()))
        settings = {
            "global": {"evaluation_interval": "500ms"},
            "rule_files": [str(rules)],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"{HOST}:{alertmanager.port}"]}]}]},
        }
        self.prometheus = Prometheus(folder / "prometheus", self.port, version=version, settings=settings)
        stack.callback(self.prometheus.end)
        assert alertmanager.ready(), alertmanager.log
        assert self.prometheus.ready(), self.prometheus.log

    def _settings(self, folder: Path) -> dict[str, object]:
        return {
            "sources": [source(self.simulator, run_url="https://console.example.com/{run_id}")],
            "state": {"path": str(folder / "state.db")},
            "metrics": {"zero_first": "1s"},
            "objectives": OBJECTIVES,
        }

    def restart(self, *, after: float = 1) -> None:
        """Kill the daemon and start it again; by default so late that scrapes fail and all series end."""
        self._daemon.kill()
        time.sleep(after)
        self._daemon = Daemon(self._config, self.port)

    def fires(self, name: str, subject: str) -> bool:
        """Wait until an alert is notified."""
        return eventually(lambda: self.pager.received()[name, subject] > 0, seconds=60)

    def clears(self, name: str, subject: str) -> bool:
        """Wait until an alert is notified as resolved."""
        return eventually(lambda: self.pager.received("resolved")[name, subject] > 0, seconds=60)


@pytest.fixture
def world() -> ScriptedWorld:
    """Add one job each: healthy and busy for minutes; late by an hour; stuck for two; about to fail."""
    world = ScriptedWorld()
    now = time.time()
    for number in range(-10, 75):
        world.run("busy", start=now + 4 * number, duration=1.0)
    world.run("late", start=now - 2 * HOUR, duration=60.0)
    world.run("stuck", run_id="stuck-run", start=now - 3 * HOUR, result=None)
    world.run("failing", start=now - HOUR, duration=60.0, steps=["load", "model"])
    return world


@pytest.fixture(params=VERSIONS)
def chain(request: pytest.FixtureRequest, tmp_path: Path, world: ScriptedWorld) -> Iterator[AlertingPipeline]:
    with ExitStack() as stack:
        yield AlertingPipeline(tmp_path, request.param, world, stack)


LATE, STUCK, SLOW = ("JobrunOverdue", "late"), ("JobrunRunStuck", "stuck"), ("JobrunRunSlow", "stuck")
FAILED, DOWN = ("JobrunLastRunFailed", "failing"), ("JobrunSourceDown", "live")


def test_each_problem_is_notified_once_and_resolved_once_despite_a_kill_and_an_outage(chain: AlertingPipeline) -> None:
    assert chain.fires(*LATE)
    assert chain.fires(*STUCK)
    failed = chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert chain.fires(*FAILED)

    chain.restart()
    again = chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert eventually(lambda: again.run_id in page(chain.port))

    chain.simulator.disruptions.set([Status(code=503)])
    assert chain.fires(*DOWN)
    time.sleep(25)  # longer than any job except the late one is without a run
    chain.simulator.disruptions.set([])
    assert chain.clears(*DOWN)

    chain.world.run("late", duration=0.5)
    chain.world.run("failing", duration=0.5, steps=["load", "model"])
    chain.world.end("stuck-run", time.time())
    for alert in (LATE, FAILED, STUCK):
        assert chain.clears(*alert)
    assert chain.fires(*SLOW)

    received = {each: count for each, count in chain.pager.received().items() if each[0] != "JobrunWatchdog"}
    assert received == Counter([LATE, STUCK, FAILED, DOWN, SLOW])
    assert chain.pager.received("resolved") == Counter([LATE, STUCK, FAILED, DOWN])
    assert_leads_to(failed.run_id, chain.pager.alert(FAILED[0]))


def test_a_long_absence_of_the_exporter_resolves_nothing(
    chain: AlertingPipeline,
) -> None:
    chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert chain.fires(*FAILED)
    assert chain.fires(*LATE)

    before = chain.pager.received("resolved")
    chain.world.run("failing", start=time.time() + 3, duration=0.5, steps=["load", "model"])
    chain.restart(after=20)  # four times as long as an alert is kept
    assert chain.pager.received()["JobrunExporterAbsent", ""] == 1
    assert chain.pager.received("resolved") == before

    assert chain.clears(*FAILED)
    assert chain.pager.received("resolved")[LATE] == 0
    chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert eventually(lambda: chain.pager.received()[FAILED] == 2, seconds=60)


def assert_leads_to(run_id: str, alert: Mapping[str, dict[str, str]]) -> None:
    """Check that the alert leads to the run: ID, step, link, runbook and team."""
    annotations, labels = alert["annotations"], alert["labels"]
    assert annotations["run_id"] == run_id
    assert annotations["failed_step"] in ("load", "model")
    assert annotations["run_url"] == f"https://console.example.com/{run_id}"
    assert annotations["runbook_url"].endswith("docs/runbooks.md#jobrunlastrunfailed")
    assert run_id in annotations["description"]
    assert labels["team"] == "data-platform"
    assert "run_id" not in labels


@pytest.mark.parametrize("version", VERSIONS)
def test_a_failing_job_that_moves_to_another_team_is_resolved_for_the_first(version: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        pager: Receiver = stack.enter_context(receiver())
        server = Alertmanager(tmp_path / "alertmanager", fast_routes(pager.url), version=version)
        stack.callback(server.end)
        assert server.ready(), server.log

        first, page = ("JobrunLastRunFailed", "warning"), ("JobrunFailingRepeatedly", "critical")
        server.post(failing(*first, "data-platform"))
        assert eventually(lambda: pager.received()[first[0], "load"] == 1), server.log
        server.post(failing(*page, "data-platform"))
        assert eventually(lambda: pager.received()[page[0], "load"] == 1), server.log

        server.post(failing(*first, "analytics"), failing(*page, "analytics"))
        server.post(failing(*first, "data-platform", ended=True), failing(*page, "data-platform", ended=True))
        both = Counter([(first[0], "load"), (page[0], "load")])
        assert eventually(lambda: pager.received("resolved") == both), server.log


def failing(name: str, severity: str, team: str, *, ended: bool = False) -> dict[str, object]:
    """Return an alert of a failing job, as Prometheus sends it."""
    labels = {"alertname": name, "severity": severity, "team": team, "source": "sp", "project": "p", "job_name": "load"}
    now = datetime.now(UTC)
    ends = now if ended else now + timedelta(hours=1)
    return {"labels": labels, "startsAt": (now - timedelta(minutes=1)).isoformat(), "endsAt": ends.isoformat()}
