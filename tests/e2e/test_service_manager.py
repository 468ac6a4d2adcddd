"""The daemon as a service: a real process, and a real socket of the service manager."""

import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.simulators.disruptions import Hang
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import LiveWorld, config, source, write_config
from tests.e2e.processes import HOST, Command, Daemon, free_port
from tests.e2e.scrapes import page
from tests.service_manager import Supervisor

pytestmark = pytest.mark.e2e

PATIENCE = 3
"""Seconds after which the watchdog would kill the daemon."""


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path if request.param == "path" else None) as supervisor:
        yield supervisor


def environ(supervisor: Supervisor) -> dict[str, str]:
    return {"NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": str(PATIENCE * 1_000_000)}


@pytest.fixture
def start(tmp_path: Path, supervisor: Supervisor) -> Iterator[Callable[[Path], Command]]:
    commands = []

    def start(config_file: Path) -> Command:
        arguments = ("run", f"--config.file={config_file}", f"--web.listen-address={HOST}:0")
        commands.append(Command(tmp_path, *arguments, environ=environ(supervisor)))
        return commands[-1]

    yield start
    for command in commands:
        command.end()


def test_a_daemon_is_ready_only_when_every_source_was_polled(
    tmp_path: Path,
    start: Callable[[Path], Command],
    simulator: SnowplowSimulator,
    world: LiveWorld,
    supervisor: Supervisor,
) -> None:
    with SnowplowSimulator(world) as slow:
        slow.disruptions.set([Hang()])
        sources = [source(simulator, "quick"), source(slow, "slow")]
        start(write_config(tmp_path, {"sources": sources, "state": {"path": "state.db"}}))

        starting = [message for _ in range(3) for message in supervisor.until("EXTEND_TIMEOUT_USEC")]
        assert {"STATUS": "not polled yet: slow"} in starting
        assert not any("READY" in message or "WATCHDOG" in message for message in starting)

    assert not any("WATCHDOG" in message for message in supervisor.until("READY"))
    assert {"STATUS": "polling quick, slow; failing: slow"} in supervisor.until("WATCHDOG")


def test_a_reload_and_the_shutdown_are_reported(
    tmp_path: Path, start: Callable[[Path], Command], simulator: SnowplowSimulator, supervisor: Supervisor
) -> None:
    command = start(config(tmp_path, simulator))
    supervisor.until("READY")

    command.signal(signal.SIGHUP)
    reloading = supervisor.until("RELOADING")[-1]
    assert abs(int(reloading["MONOTONIC_USEC"]) / 1e6 - time.monotonic()) < 100
    supervisor.until("READY")

    command.signal(signal.SIGTERM)
    supervisor.until("STOPPING")
    assert command.wait(60) == 0, command.output


def stalling(*arguments: object, **options: object) -> sqlite3.Connection:
    """Open the database. Once a file `stall` is next to it, the heartbeat's transactions hang, as on a hanging disk."""
    connection = sqlite3.connect(*arguments, **options)  # type: ignore[call-overload]  # passed on unchanged
    stall = Path(str(arguments[0])).with_name("stall")

    def trace(statement: str) -> None:
        if statement.startswith("BEGIN") and threading.current_thread().name == "heart" and stall.exists():
            threading.Event().wait()

    connection.set_trace_callback(trace)
    return connection


def test_the_watchdog_is_no_longer_notified_when_the_heartbeat_stops(
    tmp_path: Path, simulator: SnowplowSimulator, supervisor: Supervisor
) -> None:
    port = free_port()
    daemon = Daemon(config(tmp_path, simulator, zero_first="1s"), port, connect=stalling, environ=environ(supervisor))
    supervisor.until("WATCHDOG")
    (tmp_path / "stall").touch()

    until = time.monotonic() + 90
    with pytest.raises(TimeoutError):  # noqa: PT012  # after scrapes the heartbeat exposes series, which takes a transaction
        while time.monotonic() < until:
            page(port)
            supervisor.next(PATIENCE)

    assert daemon.process.is_alive()
    daemon.kill()
