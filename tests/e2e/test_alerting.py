"""From a run to a pager: simulated vendor, daemon, Prometheus with the rules, Alertmanager, and who is told."""

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from exporter.simulators.disruptions import Status
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import source, written
from tests.e2e.pages import page
from tests.e2e.processes import HOST, Daemon, eventually, free_port
from tests.e2e.servers import EDITIONS, Alertmanager, Prometheus, Receiver, receiver

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

MONITORING = Path(__file__).parents[2] / "prometheus"

HURRY = 60
"""By this much everything goes faster than in the files that users load: minutes become seconds."""

HOUR = 3600.0

OBJECTIVES = [
    {"match": {"job_name": "late"}, "every": "1h"},
    {"match": {"job_name": "busy"}, "every": "5s"},
    {"match": {"job_name": "stuck"}, "duration_budget": "1h"},
    {"match": {"job_name": "failing"}, "team": "data-platform"},
]

UNIT = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def hurried(duration: str) -> str:
    """A duration, made shorter; `1m` becomes `1000ms`."""
    number, unit = re.fullmatch(r"(\d+)([smhd])", duration).groups()  # type: ignore[union-attr]  # a test may fail here
    return f"{round(int(number) * UNIT[unit] * 1000 / HURRY)}ms"


def hurried_rules() -> dict[str, object]:
    """The rules that users load, with their waiting times, and their tolerance of ten minutes, made shorter.

    The tolerance not by as much: the daemon is behind by the seconds that its windows end before now and a failing poll
    takes, which nothing hurries. Nor by as much how long an exporter may be away: a start takes seconds.
    """
    rules = yaml.safe_load((MONITORING / "rules" / "jobrun-exporter.yml").read_text())
    for group in rules["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\b600\b", str(1200 // HURRY), rule["expr"])
            rule |= {key: hurried(rule[key]) for key in ("for", "keep_firing_for") if key in rule}
            if rule.get("alert") == "JobrunExporterAbsent":
                rule["for"] = "12s"
    return rules


def hurried_routes(url: str) -> dict[str, object]:
    """The example's configuration of Alertmanager, faster, with all receivers at one address."""
    settings = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())
    settings["templates"] = [str(MONITORING / "templates" / "*.tmpl")]
    settings["route"] |= {key: hurried(settings["route"][key]) for key in ("group_wait", "group_interval")}
    for told in settings["receivers"]:
        told["webhook_configs"] = [{"url": f"{url}{told['name']}", "send_resolved": True}]
    return settings


class Chain:
    """Everything between a vendor and a pager, running.

    Attributes:
        world: What happens at the vendor.
        simulator: The vendor.
        told: Who is told.
        prometheus: The server between.
        port: Of the daemon.
    """

    def __init__(self, folder: Path, edition: str, world: ScriptedWorld, stack: ExitStack) -> None:
        self.world = world
        self.simulator = stack.enter_context(SnowplowSimulator(world))
        self.told: Receiver = stack.enter_context(receiver())
        alertmanager = Alertmanager(folder / "alertmanager", hurried_routes(self.told.url), edition=edition)
        stack.callback(alertmanager.end)
        self.port = free_port()
        self._config = written(folder, self._settings(folder))
        self._daemon = Daemon(self._config, self.port)
        assert eventually(lambda: page(self.port)), self._daemon.log
        rules = folder / "rules.yml"
        rules.write_text(yaml.safe_dump(hurried_rules()))
        settings = {
            "global": {"evaluation_interval": "500ms"},
            "rule_files": [str(rules)],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"{HOST}:{alertmanager.port}"]}]}]},
        }
        self.prometheus = Prometheus(folder / "prometheus", self.port, edition=edition, settings=settings)
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
        """Kills the daemon and starts it again; by default so late that scrapes fail, and all series end."""
        self._daemon.kill()
        time.sleep(after)
        self._daemon = Daemon(self._config, self.port)

    def fires(self, name: str, subject: str) -> bool:
        """Waits until a notification tells of an alert."""
        return eventually(lambda: self.told.told()[name, subject] > 0, seconds=60)

    def clears(self, name: str, subject: str) -> bool:
        """Waits until a notification tells that an alert is over."""
        return eventually(lambda: self.told.told("resolved")[name, subject] > 0, seconds=60)


@pytest.fixture
def world() -> ScriptedWorld:
    """One job each: healthy and busy for minutes to come; late by an hour; stuck for two; about to fail."""
    world = ScriptedWorld()
    now = time.time()
    for number in range(-10, 75):
        world.run("busy", start=now + 4 * number, duration=1.0)
    world.run("late", start=now - 2 * HOUR, duration=60.0)
    world.run("stuck", run_id="stuck-run", start=now - 3 * HOUR, result=None)
    world.run("failing", start=now - HOUR, duration=60.0, steps=["load", "model"])
    return world


@pytest.fixture(params=EDITIONS)
def chain(request: pytest.FixtureRequest, tmp_path: Path, world: ScriptedWorld) -> Iterator[Chain]:
    with ExitStack() as stack:
        yield Chain(tmp_path, request.param, world, stack)


LATE, STUCK, SLOW = ("JobrunOverdue", "late"), ("JobrunRunStuck", "stuck"), ("JobrunRunSlow", "stuck")
FAILED, DOWN = ("JobrunLastRunFailed", "failing"), ("JobrunSourceDown", "living")


def test_each_trouble_is_told_once_and_its_end_once_while_the_daemon_is_killed_and_the_api_is_out(chain: Chain) -> None:
    assert chain.fires(*LATE)
    assert chain.fires(*STUCK)
    failed = chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert chain.fires(*FAILED)

    chain.restart()
    again = chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert eventually(lambda: again.run_id in page(chain.port))

    chain.simulator.disruptions.set([Status(code=503)])
    assert chain.fires(*DOWN)
    time.sleep(25)  # longer than any job but the late one may go without a run that is seen
    chain.simulator.disruptions.set([])
    assert chain.clears(*DOWN)

    chain.world.run("late", duration=0.5)
    chain.world.run("failing", duration=0.5, steps=["load", "model"])
    chain.world.end("stuck-run", time.time())
    for alert in (LATE, FAILED, STUCK):
        assert chain.clears(*alert)
    assert chain.fires(*SLOW)

    told = {each: count for each, count in chain.told.told().items() if each[0] != "JobrunWatchdog"}
    assert told == Counter([LATE, STUCK, FAILED, DOWN, SLOW])
    assert chain.told.told("resolved") == Counter([LATE, STUCK, FAILED, DOWN])
    assert_leads_to(failed.run_id, chain.told.alert(FAILED[0]))


def test_through_a_long_absence_nothing_is_resolved_then_what_is_over_is_and_the_next_failure_is_told(
    chain: Chain,
) -> None:
    chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert chain.fires(*FAILED)
    assert chain.fires(*LATE)

    before = chain.told.told("resolved")
    chain.world.run("failing", start=time.time() + 3, duration=0.5, steps=["load", "model"])
    chain.restart(after=20)  # four times as long as an alert is kept
    assert chain.told.told()["JobrunExporterAbsent", ""] == 1
    assert chain.told.told("resolved") == before

    assert chain.clears(*FAILED)
    assert chain.told.told("resolved")[LATE] == 0
    chain.world.run("failing", duration=0.5, result="failure", steps=["load", "model"])
    assert eventually(lambda: chain.told.told()[FAILED] == 2, seconds=60)


def assert_leads_to(run_id: str, alert: Mapping[str, dict[str, str]]) -> None:
    """The alert leads to the run: its id, its step, a link, what to do, and whose it is."""
    told, labels = alert["annotations"], alert["labels"]
    assert told["run_id"] == run_id
    assert told["failed_step"] in ("load", "model")
    assert told["run_url"] == f"https://console.example.com/{run_id}"
    assert told["runbook_url"].endswith("docs/runbooks.md#jobrunlastrunfailed")
    assert run_id in told["description"]
    assert labels["team"] == "data-platform"
    assert "run_id" not in labels
