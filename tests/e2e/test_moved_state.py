"""A state that moves from a file into PostgreSQL and back while runs complete, and commands on a shared state."""

import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import yaml

from exporter.simulators.snowplow import SnowplowSimulator
from exporter.state.connections import Pool
from exporter.state.postgres import PostgresStore, migrate
from exporter.state.postgres_schema import MIGRATIONS
from tests.e2e.live_world import LiveWorld, baseline, source, truth, write_config
from tests.e2e.processes import Daemon, eventually, free_port, run_command
from tests.e2e.scrapes import counted, fetch, page, persistent_counters, value

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]


class Auditor:
    """Scrapes one daemon after the other as one target, and notes each counter that falls."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.fallen: list[str] = []

    def scrape(self, port: int) -> str:
        text = page(port)
        for series, number in persistent_counters(text):
            if number < self.values.get(series, 0.0):
                self.fallen.append(f"{series}: {self.values[series]} -> {number}")
            self.values[series] = number
        return text

    def watch(self, daemon: Daemon, seconds: float = 4.0) -> None:
        assert eventually(lambda: page(daemon.port)), daemon.log
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.scrape(daemon.port)
            time.sleep(0.2)


def with_state(folder: Path, simulator: SnowplowSimulator, **state: str) -> Path:
    return write_config(folder, {"sources": [source(simulator)], "state": state, "metrics": {"zero_first": "0s"}})


def copied(folder: Path, origin: str, target: str) -> None:
    code, output = run_command(folder, "state", "copy", f"--from={origin}", f"--to={target}")
    assert code == 0, output
    assert "copied and verified" in output


def test_a_state_that_moves_into_a_database_and_back_counts_each_run_once(
    tmp_path: Path, simulator: SnowplowSimulator, world: LiveWorld, postgres_server
) -> None:
    url, auditor, port = postgres_server.new_database(), Auditor(), free_port()
    first, last = tmp_path / "first.db", tmp_path / "last.db"

    daemon = Daemon(with_state(tmp_path, simulator, path=str(first)), port)
    auditor.watch(daemon)
    code, output = run_command(tmp_path, "state", "copy", f"--from={first}", f"--to={url}")
    assert (code, "another jobrun-exporter uses this state" in output) == (1, True), output
    assert daemon.terminate() == 0
    copied(tmp_path, str(first), url)

    replica = Daemon(with_state(tmp_path, simulator, url=url), port)
    auditor.watch(replica)
    code, output = run_command(tmp_path, "state", "copy", f"--from={url}", f"--to={last}")
    assert (code, "stop all replicas first" in output) == (1, True), output
    assert replica.terminate() == 0
    copied(tmp_path, url, str(last))

    daemon = Daemon(with_state(tmp_path, simulator, path=str(last)), port)
    auditor.watch(daemon)
    world.rest()
    expected = truth(simulator, baseline(last))
    assert baseline(last) == baseline(first)
    assert eventually(lambda: counted(auditor.scrape(port), "live"), lambda seen: seen == expected) == expected
    assert auditor.fallen == []
    assert daemon.terminate() == 0


@pytest.fixture
def replica(tmp_path, simulator, postgres_server):
    """Return a replica on a database, which polls."""
    daemon = Daemon(with_state(tmp_path, simulator, url=postgres_server.new_database()), free_port())
    assert eventually(lambda: counted(page(daemon.port), "live").total() > 10), daemon.log
    return daemon


def url_of(folder: Path) -> str:
    return str(yaml.safe_load((folder / "config.yaml").read_text())["state"]["url"])


@pytest.mark.usefixtures("replica")
def test_backfill_writes_what_completed_before_the_baseline_of_a_shared_state(tmp_path, simulator) -> None:
    with closing(PostgresStore(Pool(url_of(tmp_path)), migrates=False)) as store:
        (since,) = (each.baseline or 0.0 for each in store.load().sources)
    everything, counts = truth(simulator, 0.0), truth(simulator, since)
    past = sum(everything[series] - counts[series] for series in everything if series[0] == "jobrun_runs_total")
    code, output = run_command(
        tmp_path, "backfill", f"--config.file={tmp_path / 'config.yaml'}", f"--output={tmp_path / 'past.om'}"
    )
    assert code == 0, output
    assert f"{past} completed runs of" in output
    assert (tmp_path / "past.om").read_bytes().endswith(b"# EOF\n")


@pytest.mark.usefixtures("replica")
def test_explain_lists_the_runs_behind_each_number_of_a_shared_state(tmp_path) -> None:
    code, output = run_command(tmp_path, "explain", f"--config.file={tmp_path / 'config.yaml'}", "jobrun_runs_total")
    assert code == 0, output
    totals = [line for line in output.splitlines() if "the state says" in line]
    assert totals
    assert all(line.endswith(": the same.") for line in totals), output


def test_a_reload_of_a_replica_takes_new_sources_and_hands_back_removed_ones(
    replica: Daemon, tmp_path, simulator
) -> None:
    def reload(*names: str) -> int:
        settings = yaml.safe_load((tmp_path / "config.yaml").read_text())
        settings["sources"] = [source(simulator, name) for name in names]
        write_config(tmp_path, settings)
        time.sleep(1)  # the daemon reloads at most once per second
        return fetch(replica.port, "/-/reload", method="POST", timeout=10)[0]

    def held() -> set[str]:
        with psycopg.connect(url_of(tmp_path)) as connection:
            rows = connection.execute("SELECT source FROM leases WHERE holder <> '' AND until > clock_timestamp()")
            return {name for (name,) in rows}

    assert held() == {"live"}
    assert reload("live", "second") == 200
    assert eventually(lambda: value(replica.port, 'jobrun_source_up{source="second"}')) == 1, replica.log
    assert held() == {"live", "second"}
    assert reload("second") == 200
    assert eventually(held, lambda found: found == {"second"}) == {"second"}
    assert eventually(lambda: 'source="live"' not in page(replica.port))
    assert replica.terminate() == 0


def test_a_reload_with_another_database_is_refused(replica: Daemon, tmp_path, simulator, postgres_server) -> None:
    with_state(tmp_path, simulator, url=postgres_server.new_database())
    status, _, body = fetch(replica.port, "/-/reload", method="POST", timeout=10)
    assert (status, b"state.url: cannot change by a reload; restart the exporter" in body) == (500, True), body
    assert eventually(lambda: page(replica.port))
    assert replica.terminate() == 0


def test_a_replica_answers_503_and_says_why_after_a_newer_version_has_migrated_the_state(
    replica: Daemon, tmp_path
) -> None:
    with closing(Pool(url_of(tmp_path))) as pool:
        migrate(pool, (*MIGRATIONS, ("ALTER TABLE runs ADD COLUMN color text",)))
    status, _, body = eventually(lambda: fetch(replica.port), lambda answer: answer[0] == 503)
    assert (status, b"upgrade or stop this replica" in body) == (503, True), body
    assert fetch(replica.port, "/-/ready")[0] == 503
    assert fetch(replica.port, "/-/healthy")[0] == 200
    assert replica.log.count("polls ended: a newer version has migrated the state") == 1
    assert replica.terminate() == 0


def test_a_reload_with_another_database_in_the_file_of_its_url_is_refused(tmp_path, simulator, postgres_server) -> None:
    file = tmp_path / "url"
    file.write_text(postgres_server.new_database())
    replica = Daemon(with_state(tmp_path, simulator, url_file=str(file)), free_port())
    assert eventually(lambda: page(replica.port)), replica.log
    file.write_text(postgres_server.new_database())
    status, _, body = fetch(replica.port, "/-/reload", method="POST", timeout=10)
    assert (status, b"state.url_file: names another database; restart the exporter" in body) == (500, True), body
    assert replica.terminate() == 0
