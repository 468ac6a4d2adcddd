"""Exporters of several teams in one Prometheus: equal names, rewritten labels, shards, moves and restarts."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from exporter.simulators.disruptions import Status
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import source, write_config
from tests.e2e.processes import HOST, Daemon, eventually, free_port
from tests.e2e.scrapes import page
from tests.e2e.servers import VERSIONS, Alertmanager, Prometheus, receiver
from tests.e2e.test_alerting import fast_routes, fast_rules

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

FLAGS = ("--rules.alert.resend-delay=4s", "--rules.alert.for-grace-period=10s")
"""Intervals that are shorter than the defaults, but not as short as those of the rules: Prometheus restarts slowly."""
WRONG_RESOLUTION = 25
"""Seconds in which a wrong resolution of an alert would be reported."""


class Team:
    """A vendor with one job, `load`."""

    def __init__(self, stack: ExitStack, name: str = "live") -> None:
        self.name = name
        self.world = ScriptedWorld()
        self.world.run("load", start=time.time() - 3600, duration=60.0)
        self.simulator: SnowplowSimulator = stack.enter_context(SnowplowSimulator(self.world))

    def fail(self) -> None:
        self.world.run("load", duration=0.5, result="failure")

    def succeed(self) -> None:
        self.world.run("load", duration=0.5)


class Exporter:
    """A daemon that reads the sources of some teams."""

    def __init__(self, folder: Path, *teams: Team) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        self.write(*teams)
        self.start()

    def write(self, *teams: Team) -> None:
        """Write the config."""
        self._config = write_config(
            self.folder,
            {
                "sources": [source(each.simulator, each.name) for each in teams],
                "state": {"path": str(self.folder / "state.db")},
                "metrics": {"zero_first": "1s"},
            },
        )

    def start(self) -> None:
        self.daemon = Daemon(self._config, self.port)
        assert eventually(lambda: page(self.port)), self.daemon.log

    def reload(self, *teams: Team) -> None:
        """Serve other sources."""
        self.write(*teams)
        assert self.daemon.process.pid
        os.kill(self.daemon.process.pid, signal.SIGHUP)


class SharedPrometheus:
    """A Prometheus that many share, its Alertmanager, and a receiver."""

    def __init__(self, folder: Path, version: str, stack: ExitStack) -> None:
        self._folder, self._edition, self._stack = folder, version, stack
        self.pager = stack.enter_context(receiver())
        self._alertmanager = Alertmanager(folder / "alertmanager", fast_routes(self.pager.url), version=version)
        stack.callback(self._alertmanager.end)
        (folder / "rules.yml").write_text(yaml.safe_dump(fast_rules()))

    def scrape(self, *jobs: dict[str, object], **settings: object) -> None:
        """Start Prometheus."""
        fast = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
        self._settings: dict[str, object] = {
            "global": settings | {"evaluation_interval": "500ms"},
            "rule_files": [str(self._folder / "rules.yml")],
            "scrape_configs": [{**job, **fast} for job in jobs],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"{HOST}:{self._alertmanager.port}"]}]}]},
        }
        self.start()
        self._stack.callback(self.end)

    def end(self) -> None:
        """End Prometheus."""
        self.prometheus.end()

    def start(self) -> None:
        """Start Prometheus with the data that it has."""
        folder, settings = self._folder / "prometheus", self._settings
        self.prometheus = Prometheus(folder, 0, version=self._edition, settings=settings, flags=FLAGS)
        assert self.prometheus.ready(), self.prometheus.log

    def reported(self, status: str = "firing") -> Counter[tuple[str, str, str]]:
        """Return how often each alert was notified, by its name, scrape job and source."""
        return Counter(
            (labels["alertname"], labels.get("job", ""), labels.get("source", ""))
            for notification in self.pager.notifications
            for alert in notification["alerts"]
            if alert["status"] == status and (labels := alert["labels"])["alertname"] != "JobrunWatchdog"
        )

    def reports(self, *wanted: tuple[str, str, str], status: str = "firing") -> bool:
        """Wait until exactly these alerts were notified, each once."""
        return eventually(lambda: self.reported(status) == Counter(wanted), seconds=60)

    def broken(self) -> list[str]:
        """Return the rules that cannot be evaluated."""
        groups: Sequence[dict] = self.prometheus.ask("rules")["groups"]  # type: ignore[call-overload]  # no query
        return [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=VERSIONS)
def shared(request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack) -> SharedPrometheus:
    return SharedPrometheus(tmp_path, request.param, stack)


def targets(*exporters: Exporter, **labels: str) -> list[dict[str, object]]:
    return [{"targets": [f"{HOST}:{each.port}" for each in exporters], "labels": labels}]


ONE_INSTANCE = [{"target_label": "instance", "replacement": "same"}]
FAILED, DOWN, GONE = "JobrunLastRunFailed", "JobrunSourceDown", "JobrunSourceGone"


def test_teams_with_equal_names_get_their_own_alerts_whatever_labels_are_rewritten_and_prometheus_restarts(
    shared: SharedPrometheus, stack: ExitStack, tmp_path: Path
) -> None:
    a, b = Team(stack), Team(stack)
    first, second = Exporter(tmp_path / "a", a), Exporter(tmp_path / "b", b)
    own = targets(first, source="prometheus", project="infra", job_name="scrape", team="platform")
    shared.scrape(
        {"job_name": "alpha", "honor_labels": True, "static_configs": own, "relabel_configs": ONE_INSTANCE},
        {"job_name": "b/anything goes", "static_configs": targets(second), "relabel_configs": ONE_INSTANCE},
        external_labels={"cluster": "eu", "replica": "0", "source": "prometheus"},
    )
    of_a, of_b, down = (FAILED, "alpha", "live"), (FAILED, "b/anything goes", "live"), (DOWN, "b/anything goes", "live")
    a.fail()
    b.fail()
    assert shared.reports(of_a, of_b), shared.reported()
    b.simulator.disruptions.set([Status(code=503)])
    assert shared.reports(of_a, of_b, down), shared.reported()

    shared.end()
    shared.start()
    time.sleep(WRONG_RESOLUTION)
    assert (shared.reported(), shared.reported("resolved")) == (Counter([of_a, of_b, down]), Counter())
    assert shared.broken() == []

    a.succeed()
    assert shared.reports(of_a, status="resolved"), shared.reported("resolved")
    b.succeed()
    b.simulator.disruptions.set([])
    assert shared.reports(of_a, of_b, down, status="resolved"), shared.reported("resolved")


def test_a_label_of_targets_that_replaces_labels_of_jobs_is_reported(
    shared: SharedPrometheus, stack: ExitStack, tmp_path: Path
) -> None:
    team = Team(stack)
    team.world.run("load", project="qa", start=time.time() - 3600, duration=60.0)
    exporter = Exporter(tmp_path / "a", team)
    shared.scrape({"job_name": "alpha", "static_configs": targets(exporter, project="infra")})
    assert shared.reports(("JobrunExporterLabelClash", "alpha", "")), shared.reported()
    assert shared.broken() != []


def test_exporters_with_one_instance_label_are_reported(
    shared: SharedPrometheus, stack: ExitStack, tmp_path: Path
) -> None:
    both = (Exporter(tmp_path / name, Team(stack, name)) for name in ("s1", "s2"))
    shared.scrape({"job_name": "alpha", "static_configs": targets(*both), "relabel_configs": ONE_INSTANCE})
    assert shared.reports(("JobrunExporterRestarting", "alpha", "")), shared.reported()


def test_a_shard_that_dies_is_reported_and_a_source_that_moves_is_not(
    shared: SharedPrometheus, stack: ExitStack, tmp_path: Path
) -> None:
    teams = [Team(stack, name) for name in ("s1", "s2", "s3")]
    shards = [Exporter(tmp_path / team.name, team) for team in teams]
    other = Exporter(tmp_path / "other", Team(stack, "s4"))
    shared.scrape(
        {"job_name": "shards", "static_configs": targets(*shards)},
        {"job_name": "other", "static_configs": targets(other)},
    )
    failed, gone = (FAILED, "shards", "s2"), (GONE, "shards", "s2")
    teams[1].fail()
    assert shared.reports(failed), shared.reported()

    shards[1].daemon.kill()
    assert shared.reports(failed, gone), shared.reported()
    time.sleep(WRONG_RESOLUTION)
    assert shared.reported("resolved") == Counter()
    shards[1].start()
    assert shared.reports(gone, status="resolved"), shared.reported("resolved")

    shards[0].reload(teams[0], teams[1])
    assert eventually(lambda: 'source="s2"' in page(shards[0].port))
    assert eventually(lambda: 'jobrun_source_up{source="s2"} 1' in page(shards[0].port))
    time.sleep(2)  # until it is scraped
    shards[1].reload(teams[2])
    time.sleep(WRONG_RESOLUTION)
    assert (shared.reported(), shared.reported("resolved")) == (Counter([failed, gone]), Counter([gone]))

    moved = (FAILED, "other", "s2")
    other.reload(teams[1])
    assert shared.reports(failed, gone, moved), shared.reported()
    shards[0].reload(teams[0])
    assert shared.reports(gone, failed, status="resolved"), shared.reported("resolved")
