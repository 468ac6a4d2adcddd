"""The daemon in this process: an error in one part stops no other part."""

import sqlite3
import threading
import time

import httpx
import pytest

from exporter import logs
from exporter.assembly import Clocks
from exporter.config import loads
from exporter.config.secret import MASK
from exporter.daemon import FIRST_HOUSEKEEPING, Daemon
from exporter.sources import KNOWN_NAMES
from exporter.web.address import Address
from tests.e2e.processes import eventually

KEY = "kept-from-all-logs"
SOURCE = (
    f"{{name: %s, type: snowplow, organization_id: o, base_url: 'https://%s.example.com', auth: {{api_key: {KEY}}}}}"
)


class DaemonHarness:
    """A daemon whose configuration and clock can be changed."""

    def __init__(self, folder):
        self.folder = folder
        self.sources = [SOURCE % ("one", "one")]
        self.more = ""
        self.broken = None
        self.breaks_switch = False
        self.looked = threading.Event()
        self.requested = threading.Event()
        clocks = Clocks(clock=self.clock, transport=httpx.MockTransport(self.answer))
        self.daemon = Daemon(self.config, Address("127.0.0.1", 0), clocks=clocks, connect=sqlite3.connect)
        self.daemon.start()

    def clock(self):
        if self.broken is not None and threading.current_thread().name == "heart":
            self.looked.set()
            raise self.broken
        if self.breaks_switch and threading.current_thread() is threading.main_thread() and self.is_switched():
            self.breaks_switch = False
            raise OSError("odd")
        return time.time()

    def answer(self, _request):
        self.requested.set()
        return httpx.Response(500)

    def is_switched(self):
        return len(self.daemon._config.sources) > 1

    def config(self):
        if isinstance(self.more, Exception):
            raise self.more
        text = f"sources: [{', '.join(self.sources)}]\nstate: {{path: {self.folder / 'state.db'}}}\n{self.more}"
        return loads(text, {}, KNOWN_NAMES)

    def page(self):
        url = f"http://127.0.0.1:{self.daemon.address.port}/metrics"
        return httpx.get(url, trust_env=False).text


@pytest.fixture
def harness(tmp_path):
    harness = DaemonHarness(tmp_path)
    yield harness
    harness.broken = None
    harness.daemon.stop()


def test_a_daemon_is_not_ready_before_its_first_page(tmp_path):
    text = f"sources: [{SOURCE % ('one', 'one')}]\nstate: {{path: {tmp_path / 'state.db'}}}\n"
    clocks = Clocks(transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    daemon = Daemon(lambda: loads(text, {}, KNOWN_NAMES), Address("127.0.0.1", 0), clocks=clocks)
    assert daemon.ready() == (False, "the state is loading")


def test_the_heart_beats_while_many_runs_are_pruned(tmp_path):
    ahead, pruning, pruned = [0.0], threading.Event(), threading.Event()

    def clock():
        if threading.current_thread().name == "housekeeping":
            pruning.set()
            pruned.wait(20)
        return time.time()

    text = f"sources: [{SOURCE % ('one', 'one')}]\nstate: {{path: {tmp_path / 'state.db'}}}\n"
    clocks = Clocks(
        clock=clock,
        monotonic=lambda: time.monotonic() + ahead[0],
        transport=httpx.MockTransport(lambda _: httpx.Response(500)),
    )
    daemon = Daemon(lambda: loads(text, {}, KNOWN_NAMES), Address("127.0.0.1", 0), clocks=clocks)
    daemon.start()
    try:
        ahead[0] = FIRST_HOUSEKEEPING
        assert pruning.wait(20)
        ahead[0] += 3600.0
        assert eventually(lambda: daemon.healthy()[0], seconds=5.0)
    finally:
        pruned.set()
        daemon.stop()


def test_an_error_in_one_part_of_the_heartbeat_stops_no_other(harness):
    harness.broken = OSError("odd")
    for _ in range(2):
        harness.looked.clear()
        assert harness.looked.wait(10)
    assert harness.daemon.healthy() == (True, "ok")


def test_an_unexpected_error_of_a_reload_is_refused_and_reported(harness):
    harness.more = MemoryError()
    assert harness.daemon.reload() == (False, "unexpected MemoryError; see the log")
    harness.more = ""
    assert harness.daemon.reload() == (True, "reloaded")


def test_a_refused_reload_changes_nothing_on_the_page(harness):
    harness.daemon._assembly.scheduled[0].idle.acquire(timeout=10)
    harness.daemon._ledger.start_poll("one", time.time())
    harness.daemon._assembly.scheduled[0].idle.release()
    harness.sources = [SOURCE % ("one", "another"), SOURCE % ("two", "two")]
    done, why = harness.daemon.reload()
    assert not done
    assert "the state has the runs of" in why
    harness.daemon._publisher.publish()
    page = harness.page()
    assert 'source="two"' not in page
    assert "another.example.com" not in page


def test_a_reload_that_fails_midway_restores_the_old_sources(harness):
    before = harness.daemon._assembly
    one = SOURCE % ("one", "one")
    harness.sources = [one.replace("type:", "poll_interval: 2h, type:"), SOURCE % ("two", "two")]
    harness.breaks_switch = True
    assert harness.daemon.reload() == (False, "unexpected OSError; see the log")
    harness.requested.clear()
    assert harness.daemon._assembly is before
    assert harness.requested.wait(30), "the source from before is polled"
    harness.daemon._publisher.publish()
    page = harness.page()
    assert 'source="two"' not in page
    assert 'jobrun_source_poll_interval_seconds{source="one"} 60.0' in page
    harness.requested.clear()
    assert harness.daemon.reload() == (True, "reloaded")
    assert harness.daemon._assembly is not before
    assert harness.requested.wait(30)
    assert harness.daemon._assembly.scheduled[0].idle.acquire(timeout=30), (
        "its poll, which sets the interval, has ended"
    )
    harness.daemon._publisher.publish()
    assert 'jobrun_source_poll_interval_seconds{source="one"} 7200.0' in harness.page()


def test_a_reload_applies_excluded_metrics_also_to_those_of_the_process(harness):
    excluded = ["jobrun_source_api_requests_total", "jobrun_exporter_build_info", "jobrun_source_info"]
    assert harness.requested.wait(10)
    harness.daemon._publisher.publish()
    assert [name for name in excluded if name not in harness.page()] == []
    harness.more = f"metrics: {{exclude: [{', '.join(excluded)}]}}"
    assert harness.daemon.reload() == (True, "reloaded")
    page = harness.page()
    assert [name for name in excluded if name in page] == []
    assert "process_cpu_seconds_total" in page
    assert "jobrun_source_api_retries_total" in page


def test_a_reload_changes_how_long_new_series_are_pending(harness):
    harness.more = "metrics: {zero_first: 17s}"
    assert harness.daemon.reload() == (True, "reloaded")
    assert harness.daemon._pending_series.zero_first == 17.0


def test_a_reload_cannot_move_the_state(harness, tmp_path):
    harness.folder = tmp_path / "elsewhere"
    assert harness.daemon.reload() == (False, "state.path: cannot change by a reload; restart the exporter")


def test_secrets_are_masked_in_logs_from_the_start_and_after_a_reload(harness):
    harness.sources = [SOURCE.replace(KEY, "another-key") % ("one", "one")]
    harness.daemon.reload()
    assert logs._REDACTOR(None, "info", {"event": f"{KEY} another-key"}) == {"event": f"{MASK} {MASK}"}
