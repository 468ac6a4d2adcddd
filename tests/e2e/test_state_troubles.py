"""A state that is damaged, full or read-only: the daemon keeps serving and counts nothing twice."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import LiveWorld, baseline, config, truth
from tests.e2e.processes import Daemon, eventually, free_port, mount, runs_as_root, unmount
from tests.e2e.scrapes import Scraper, counted, page, value

pytestmark = pytest.mark.e2e

UP = 'jobrun_source_up{source="live"}'
ERRORS = 'jobrun_source_poll_errors_total{source="live",reason="state"}'
COMMIT_ERRORS = "jobrun_exporter_state_commit_errors_total"


class SmallFileSystem:
    """A small file system. `fill` uses all of it, `free` makes room."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        if not (runs_as_root() and mount("-t", "tmpfs", "-o", "size=4m", "none", str(folder))):
            pytest.skip("file systems can only be mounted by root")
        self.folder = folder

    def fill(self) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(b"x" * 4096)

    def free(self) -> None:
        (self.folder / "ballast").unlink()

    def set(self, mode: str) -> None:
        assert mount("-o", f"remount,{mode}", str(self.folder))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallFileSystem]:
    small = SmallFileSystem(tmp_path / "small")
    yield small
    unmount(small.folder)


@pytest.fixture
def scraper() -> Iterator[Scraper]:
    scraper = Scraper(free_port())
    scraper.start()
    yield scraper
    scraper.stop()
    assert not scraper.falls


def counts_all(port: int, simulator: SnowplowSimulator, state: Path) -> bool:
    """Return whether everything is finally counted once."""
    expected = truth(simulator, baseline(state))
    return eventually(lambda: counted(page(port), "live"), lambda seen: seen == expected) == expected


def counting(port: int) -> Callable[[], bool]:
    """Return a check that some runs have been counted."""
    return lambda: sum(counted(page(port), "live").values()) > 5


def test_a_corrupt_state_is_set_aside_and_replaced(tmp_path: Path, simulator: SnowplowSimulator) -> None:
    damaged = b"SQLite format 3\0" + b"this was a state once" * 1000
    (tmp_path / "state.db").write_bytes(damaged)
    port = free_port()
    daemon = Daemon(config(tmp_path, simulator), port)

    assert eventually(counting(port))
    assert value(port, 'jobrun_exporter_state_cold_starts_total{reason="corrupt"}') == 1
    (kept,) = tmp_path.glob("state.db.corrupt-*")
    assert kept.read_bytes() == damaged
    assert daemon.terminate() == 0


def test_a_full_disk_is_reported_and_no_run_is_lost_once_there_is_room(
    small: SmallFileSystem, tmp_path: Path, simulator: SnowplowSimulator, world: LiveWorld, scraper: Scraper
) -> None:
    port, state = scraper.port, small.folder / "state.db"
    daemon = Daemon(config(tmp_path, simulator, state), port)
    assert eventually(counting(port))

    small.fill()
    assert eventually(lambda: value(port, UP), lambda seen: seen == 0) == 0
    served = counted(page(port), "live")
    time.sleep(1.5)
    assert value(port, COMMIT_ERRORS)
    assert counted(page(port), "live") == served, "what cannot be committed is not counted"

    small.free()
    assert eventually(lambda: value(port, UP)) == 1
    assert value(port, ERRORS), "what could not be written is counted once it can be"
    world.rest()
    assert counts_all(port, simulator, state)
    assert "Traceback" not in daemon.log
    assert daemon.terminate() == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux changes the limits of another process")
def test_a_file_that_cannot_grow_is_reported_and_no_run_is_lost_once_it_can(
    tmp_path: Path, simulator: SnowplowSimulator, world: LiveWorld, scraper: Scraper
) -> None:
    port, state = scraper.port, tmp_path / "state.db"
    daemon = Daemon(config(tmp_path, simulator), port)
    assert eventually(counting(port))
    pid = daemon.process.pid
    assert pid is not None
    limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, limit[1]))
    assert eventually(lambda: value(port, UP), lambda seen: seen == 0) == 0
    served = counted(page(port), "live")
    time.sleep(1.5)
    assert counted(page(port), "live") == served, "what cannot be committed is not counted"

    resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
    assert eventually(lambda: value(port, UP)) == 1
    assert value(port, ERRORS), "what could not be written is counted once it can be"
    world.rest()
    assert counts_all(port, simulator, state)
    assert daemon.terminate() == 0


def test_a_read_only_state_is_served_and_used_again_when_it_can_be_written(
    small: SmallFileSystem, tmp_path: Path, simulator: SnowplowSimulator, world: LiveWorld, scraper: Scraper
) -> None:
    port, state = scraper.port, small.folder / "state.db"
    config_file = config(tmp_path, simulator, state, startup_hold="1s")
    daemon = Daemon(config_file, port)
    assert eventually(counting(port))
    assert daemon.terminate() == 0

    small.set("ro")
    daemon = Daemon(config_file, port)
    assert eventually(counting(port)), "what could be read is served"
    assert eventually(lambda: value(port, UP), lambda seen: seen == 0) == 0

    small.set("rw")
    assert eventually(lambda: value(port, UP)) == 1
    assert value(port, ERRORS), "what could not be written is counted once it can be"
    world.rest()
    assert counts_all(port, simulator, state)
    assert "Traceback" not in daemon.log
    assert daemon.terminate() == 0


def test_the_daemon_waits_for_a_missing_folder(tmp_path: Path, simulator: SnowplowSimulator) -> None:
    missing, port = tmp_path / "volume", free_port()
    daemon = Daemon(config(tmp_path, simulator, missing / "state.db"), port)
    assert eventually(lambda: value(port, UP), lambda seen: seen == 0) == 0

    missing.mkdir()
    assert eventually(counting(port))
    assert "Traceback" not in daemon.log
    assert daemon.terminate() == 0
