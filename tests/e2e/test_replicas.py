"""Replicas on one PostgreSQL: scraped one after the other, they look like one exporter with correct counters."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from exporter.simulators.disruptions import Status
from exporter.simulators.snowplow import SnowplowSimulator
from tests import postgres
from tests.e2e.live_world import LiveWorld, source, truth, write_config
from tests.e2e.processes import HOST, Daemon, eventually, free_port, require_tool, run_command
from tests.e2e.replica_proxy import ReplicaProxy
from tests.e2e.scrapes import COUNTED, Series, counted, fetch, persistent_counters
from tests.e2e.servers import Prometheus
from tests.monitoring.dashboard_files import JSONS, STEP, filled, last_step, panels

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SOURCES = ("one", "two", "three")

BETWEEN_SCRAPES = 2.5
"""Seconds between scrapes: more than `exporter.replica.FRESH`, like the interval of every Prometheus."""

TAKE_OVER = 30.0


class ReplicaGroup:
    """Replicas behind one address, and a scraper of that address."""

    def __init__(self, folder: Path, url: str, size: int = 3, zero_first: str = "0s", **of_sources: object) -> None:
        self.worlds = [LiveWorld(seed).start() for seed in range(len(SOURCES))]
        self.simulators = [SnowplowSimulator(world).__enter__() for world in self.worlds]
        self.url = url
        self.ports = [free_port() for _ in range(size)]
        self.configs = []
        for number in range(size):
            (folder / str(number)).mkdir()
            named = [source(each, name, **of_sources) for each, name in zip(self.simulators, SOURCES, strict=True)]
            settings = {"sources": named, "state": {"url": url}, "metrics": {"zero_first": zero_first}}
            self.configs.append(write_config(folder / str(number), settings))
        self.daemons = [self.start(number) for number in range(size)]
        self.balancer = ReplicaProxy(self.ports)
        self.values: dict[str, float] = {}
        self.fallen: list[str] = []
        self.answers = 0
        self.difference: object = None

    def start(self, number: int) -> Daemon:
        return Daemon(self.configs[number], self.ports[number])

    def restart(self, number: int) -> None:
        self.daemons[number] = self.start(number)

    def end(self) -> None:
        self.balancer.shutdown()
        self.balancer.server_close()
        for daemon in self.daemons:
            if daemon.process.pid is not None and daemon.process.is_alive():
                os.kill(daemon.process.pid, signal.SIGCONT)
            daemon.kill()
        for world, simulator in zip(self.worlds, self.simulators, strict=True):
            world.stop()
            simulator.__exit__(None, None, None)

    def scrape(self) -> str:
        status, body = self.balancer.ask("/metrics")
        if status != 200:
            return ""
        self._audit(body.decode())
        return body.decode()

    def _audit(self, text: str) -> None:
        self.answers += 1
        for series, value in persistent_counters(text):
            if value < self.values.get(series, 0.0):
                self.fallen.append(f"{series}: {self.values[series]} -> {value}")
            self.values[series] = value

    def scrape_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.scrape()
            time.sleep(BETWEEN_SCRAPES)

    def owned_sources(self) -> dict[int, set[str]]:
        """Return the sources that each replica reports to poll, by its number."""
        found = {}
        for number, port in enumerate(self.ports):
            try:
                _, _, body = fetch(port, "/metrics/replica", timeout=1)
            except OSError:
                continue
            lines = [line for line in body.decode().splitlines() if line.startswith("jobrun_source_owner_info{")]
            found[number] = {line.split('source="')[1].split('"')[0] for line in lines}
        return found

    def all_polled(self) -> bool:
        return sorted(name for names in self.owned_sources().values() for name in names) == sorted(SOURCES)

    def busiest(self) -> int:
        owned = self.owned_sources()
        return max(owned, key=lambda number: len(owned[number]))

    def describe(self) -> str:
        """Return the latest logs of the replicas, and how the counts differ from the truth."""
        logs = (f"--- {number}\n{each.log[-4000:]}" for number, each in enumerate(self.daemons))
        return "\n".join((*logs, f"{self.owned_sources()} {self.difference}"))

    def rest(self) -> None:
        for world in self.worlds:
            world.rest()

    def truths(self) -> list[Counter[Series]]:
        """Return the true counts of each source since its baseline."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT name, (convert_from(record, 'UTF8')::json)->>'baseline' FROM sources")
            baselines = {name: float(value) for name, value in rows}
        return [truth(simulator, baselines[name]) for simulator, name in zip(self.simulators, SOURCES, strict=True)]

    def is_counted(self) -> bool:
        text, wanted = self.scrape(), self.truths()
        found = [counted(text, name) for name in SOURCES]
        self.difference = [(set(f.items()) ^ set(w.items())) for f, w in zip(found, wanted, strict=True)]
        if found != wanted:
            time.sleep(BETWEEN_SCRAPES)
        return found == wanted


@pytest.fixture
def group(tmp_path, postgres_server) -> Iterator[ReplicaGroup]:
    group = ReplicaGroup(tmp_path, postgres_server.new_database())
    yield group
    group.end()


def check_final_counts(group: ReplicaGroup) -> None:
    group.rest()
    assert eventually(group.is_counted, seconds=60), group.describe()
    assert group.fallen == [], "\n".join(group.fallen)
    assert group.answers > 5


def test_killed_and_frozen_replicas_neither_lose_nor_double_a_run_and_no_counter_falls(group):
    assert eventually(group.all_polled, seconds=30), [each.log for each in group.daemons]
    group.scrape_for(10)
    victim = group.busiest()
    group.daemons[victim].kill()
    killed = time.monotonic()
    while not group.all_polled() and time.monotonic() - killed < TAKE_OVER:
        assert group.scrape(), "a scrape while nobody polls is answered"
        time.sleep(BETWEEN_SCRAPES)
    assert time.monotonic() - killed < TAKE_OVER, group.describe()
    group.restart(victim)
    group.scrape_for(8)
    frozen = group.busiest()
    os.kill(group.daemons[frozen].process.pid, signal.SIGSTOP)
    group.scrape_for(20)
    os.kill(group.daemons[frozen].process.pid, signal.SIGCONT)
    group.scrape_for(8)
    check_final_counts(group)


def test_increases_in_prometheus_are_true_while_replicas_die_and_return(tmp_path, postgres_server):
    group = ReplicaGroup(tmp_path, postgres_server.new_database(), zero_first="6s")
    target = group.balancer.server_address[1]
    server = Prometheus(tmp_path / "prometheus", target, interval=f"{BETWEEN_SCRAPES * 1000:.0f}ms")
    try:
        assert server.ready()
        assert eventually(group.all_polled, seconds=30), group.describe()
        for end in (Daemon.kill, Daemon.terminate):
            victim = group.busiest()
            end(group.daemons[victim])
            assert eventually(group.all_polled, seconds=TAKE_OVER), group.describe()
            group.restart(victim)
        group.rest()
        expected = sum(group.truths(), Counter[Series]())
        assert expected
        assert eventually(server.raw_increases, lambda seen: seen == expected, seconds=60) == expected, group.describe()
        assert [found for name in COUNTED for found in server.ask("query", query=f"resets({name}[1h]) > 0")] == []
        (scraped,) = server.ask("query", query="count(count_over_time(up[1h]))")
        assert scraped["value"][1] == "1"  # one target, so one `instance`
    finally:
        server.end()
        group.end()


def test_a_credential_has_one_budget_no_matter_which_replica_uses_it(tmp_path, postgres_server):
    group = ReplicaGroup(tmp_path, postgres_server.new_database(), requests_per_minute=12)
    try:
        assert eventually(group.all_polled, seconds=30), group.describe()
        for end in (Daemon.terminate, Daemon.kill, Daemon.terminate):
            group.scrape_for(5)
            victim = group.busiest()
            end(group.daemons[victim])
            assert eventually(group.all_polled, seconds=TAKE_OVER), group.describe()
            group.restart(victim)
        for simulator in group.simulators:
            times = [line.time for line in simulator.log.lines()]
            most = max(sum(first <= each < first + 59 for each in times) for first in times)
            assert most in {11, 12}, (times, group.describe())
    finally:
        group.end()


def test_a_clean_stop_hands_its_sources_over_at_once(group):
    assert eventually(group.all_polled, seconds=30)
    group.scrape_for(5)
    assert group.daemons[group.busiest()].terminate() == 0
    assert eventually(group.all_polled, seconds=10), group.describe()
    group.scrape_for(10)
    check_final_counts(group)


def test_replicas_show_the_same_bytes(group):
    assert eventually(group.all_polled, seconds=30)
    group.scrape_for(10)
    group.rest()
    for simulator in group.simulators:
        simulator.disruptions.set([Status(code=503)])  # failing polls become rare, and so do commits

    def pages():
        return {fetch(port)[2] for port in group.ports}

    (page,) = eventually(pages, lambda found: len(found) == 1, seconds=60)
    assert b"\njobrun_runs_total{" in page


def test_a_database_that_crashes_under_load_loses_no_run(tmp_path):
    with postgres.server() as server:
        group = ReplicaGroup(tmp_path, server.new_database(), size=2)
        try:
            assert eventually(group.all_polled, seconds=30)
            for _ in range(3):
                group.scrape_for(5)
                server.stop("immediate")
                server.start()
            group.scrape_for(10)
            check_final_counts(group)
        finally:
            group.end()


def test_a_failover_that_loses_commits_neither_loses_nor_doubles_a_run(tmp_path):
    with postgres.server() as primary, postgres.standby(primary) as standby:
        name = primary.new_database().rpartition("/")[2]
        url = f"postgresql://jobrun@{HOST}:{primary.port},{HOST}:{standby.port}/{name}"
        group = ReplicaGroup(tmp_path, url, size=2)
        try:
            assert eventually(group.all_polled, seconds=30)
            group.scrape_for(8)
            standby.fall_behind()
            group.scrape_for(6)
            primary.stop("immediate")
            standby.promote()
            group.scrape_for(25)
            check_final_counts(group)
        finally:
            group.end()
            primary.start()  # so that it can be stopped


def test_a_pooler_that_gives_each_transaction_another_connection_is_enough(tmp_path, postgres_server):
    url = postgres_server.new_database()
    name, port = url.rpartition("/")[2], free_port()
    settings = tmp_path / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{name} = host={HOST} port={postgres_server.port} user=jobrun\n"
        f"[pgbouncer]\nlisten_addr = {HOST}\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n"
        "default_pool_size = 1\nunix_socket_dir =\n"
    )
    settings.chmod(0o644)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    as_other: Any = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    pooler = subprocess.Popen([require_tool("pgbouncer"), "--quiet", str(settings)], **as_other)
    try:
        group = ReplicaGroup(tmp_path, f"postgresql://jobrun@{HOST}:{port}/{name}", size=2)
        try:
            assert eventually(group.all_polled, seconds=30), [each.log for each in group.daemons]
            group.scrape_for(15)
            check_final_counts(group)
        finally:
            group.end()
    finally:
        pooler.kill()
        pooler.wait()


def test_explain_and_check_read_the_shared_state(group):
    assert eventually(group.all_polled, seconds=30)
    group.scrape_for(10)
    config = str(group.configs[0])
    selector = 'jobrun_runs_total{source="one",job_name="orders",result="success",project="prod"}'
    code, output = run_command(group.configs[0].parent, "explain", f"--config.file={config}", selector)
    assert (code, "the same" in output) == (0, True), output
    code, output = run_command(group.configs[0].parent, "check", "--live", f"--config.file={config}")
    assert code == 0, output
    assert "no synchronous standby" in output


def scraping_prometheus(folder: Path, group: ReplicaGroup) -> Prometheus:
    """Return a Prometheus that scrapes `/metrics` of one replica and `/metrics/replica` of each."""
    own = [f"{HOST}:{port}" for port in group.ports]
    jobs = {"jobruns": ("/metrics", own[:1]), "replicas": ("/metrics/replica", own)}
    scrapes = [
        {"job_name": name, "metrics_path": path, "scrape_interval": "1s", "static_configs": [{"targets": targets}]}
        for name, (path, targets) in jobs.items()
    ]
    return Prometheus(folder, group.ports[0], settings={"scrape_configs": scrapes})


def panel_values(prometheus: Prometheus, title: str) -> list[float]:
    """Return the newest values of a panel of the dashboard *Exporter*."""
    (panel,) = [panel for panel in panels(JSONS["jobrun-exporter"]) if panel["title"] == title]
    expression = panel["targets"][0]["expr"]
    query = filled(expression, job=".+", source=".*", instance=".+", __interval=f"{STEP}s")
    return sorted(float(each["value"][1]) for each in prometheus.ask("query", query=query, time=last_step(expression)))


def test_the_dashboard_shows_replicas_their_sources_and_takeovers(group, tmp_path):
    prometheus = scraping_prometheus(tmp_path / "prometheus", group)
    try:
        assert eventually(group.all_polled, seconds=30), group.describe()
        assert prometheus.ready()
        for title, all_well in {"Sources by replica": [1, 1, 1], "Replicas": [3, 3, 3], "Takeovers": [0, 0, 0]}.items():
            values = eventually(lambda: panel_values(prometheus, title), all_well.__eq__, seconds=60)  # noqa: B023
            assert values == all_well, title
        assert eventually(lambda: panel_values(prometheus, "Leases lost"))
        frozen = group.busiest()
        os.kill(group.daemons[frozen].process.pid, signal.SIGSTOP)
        assert eventually(lambda: sum(panel_values(prometheus, "Takeovers")) > 0, seconds=TAKE_OVER + 10), (
            group.describe()
        )
        os.kill(group.daemons[frozen].process.pid, signal.SIGCONT)
        assert eventually(lambda: sum(panel_values(prometheus, "Leases lost")) > 0, seconds=30), group.describe()
    finally:
        prometheus.end()
