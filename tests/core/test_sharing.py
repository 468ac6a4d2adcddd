"""The threads of a replica."""

import threading
import time
from typing import Any

import httpx
import pytest
import yaml

from exporter.assembly import Clocks
from exporter.config import loads
from exporter.daemon import FIRST_HOUSEKEEPING, Daemon
from exporter.ledger.ledger import Ledger
from exporter.metrics.zero_first import ZeroFirst
from exporter.replica import Handlers
from exporter.sharing import Shared
from exporter.sources import KNOWN_NAMES
from exporter.state.lease_statements import LONGEST_SILENCE
from exporter.web.address import Address
from exporter.web.file import WebFile
from tests.core.replica_harness import Member
from tests.e2e.processes import eventually


def test_leases_are_renewed_while_a_page_takes_long(url, admin):
    now, rendering, rendered = [0.0], threading.Event(), threading.Event()

    def publish():
        rendering.set()
        rendered.wait()

    def end():
        return admin.execute("SELECT until FROM leases WHERE source = 's'").fetchone()[0]

    shared = Shared(url, lambda: now[0])
    ledger = Ledger(shared.open)
    handlers = Handlers(
        groups=lambda: [frozenset({"s"})],
        identities=lambda: {"s": "api"},
        request_ages=lambda _name: (),
        start_polls=lambda _names, _ages: None,
        end_polls=lambda _names: None,
        is_idle=lambda _name: True,
        publish=publish,
        generation=lambda: 0,
    )
    replica = shared.join(ledger, ZeroFirst(60.0, lambda: now[0]), handlers)
    shared.start(lambda task: task())
    try:
        assert rendering.wait(20)
        assert replica.owned == {"s"}
        for _ in range(3):
            before = end()
            now[0] += LONGEST_SILENCE - 1
            assert eventually(end, lambda after: after > before) > before  # noqa: B023  # called within this iteration
    finally:
        rendered.set()
        shared.stop(5.0)
    replica.tick()
    assert replica.owned == {"s"}
    assert replica.lost == 0
    ledger.close()


def test_a_daemon_holds_removed_sources_to_prune_them_and_divides_pages_among_replicas(url, admin):
    member = Member(url, "before")
    member.replica.leave()
    member.ledger.close()
    text = f"sources: [{{name: other, type: strait, auth: {{api_key: k}}}}]\nstate: {{url: '{url}'}}\n"
    ahead = [0.0]
    clocks = Clocks(
        monotonic=lambda: time.monotonic() + ahead[0], transport=httpx.MockTransport(lambda _: httpx.Response(500))
    )
    daemon = Daemon(lambda: loads(text, {}, KNOWN_NAMES), Address("127.0.0.1", 0), clocks=clocks)

    def lease():
        return admin.execute("SELECT fence, holder FROM leases WHERE source = 's'").fetchone()

    fence, _ = lease()
    daemon.start()
    try:
        assert eventually(lambda: daemon.ready()[0])
        ahead[0] = FIRST_HOUSEKEEPING
        held_once = (fence + 1, "")
        assert eventually(lease, lambda found: found == held_once) == held_once
        shared: Any = daemon._shared
        shared.stop(5.0)
        shared.replica.replicas = 3
        assert daemon._assembly._replicas() == 3
    finally:
        daemon.stop()


@pytest.mark.parametrize("lost", ["before", "during"])
def test_a_source_that_is_taken_over_during_a_reload_is_polled(url, admin, tmp_path, lost):
    s, other = ({"name": name, "type": "strait", "auth": {"api_key": name}} for name in ("s", "other"))
    requests, text = [], yaml.safe_dump({"sources": [s, other], "state": {"url": url}})

    def respond(request):
        requests.append(request.headers["Authorization"])
        return httpx.Response(500)

    class SlowWebFile(WebFile):
        """While it is loaded again, before the new config is active, the replica takes a source."""

        def reload(self):
            super().reload()
            taken = replica.taken["s"]
            admin.execute("UPDATE leases SET holder = '', until = 'epoch' WHERE source = 's'")
            eventually(lambda: replica.taken["s"], lambda now: now > taken, 2.0)

    (tmp_path / "web.yaml").write_text("http_server_config: {}\n")
    daemon = Daemon(
        lambda: loads(text, {}, KNOWN_NAMES),
        Address("127.0.0.1", 0),
        clocks=Clocks(transport=httpx.MockTransport(respond)),
        web_file=SlowWebFile(tmp_path / "web.yaml", time.monotonic),
    )
    shared: Any = daemon._shared
    replica, schedule = shared.replica, daemon._schedule
    daemon.start()
    try:
        assert eventually(lambda: len(requests), lambda sent: sent >= 2) >= 2
        if lost == "before":
            admin.execute("UPDATE leases SET holder = 'another', until = 'infinity' WHERE source = 's'")
            assert eventually(lambda: replica.owned, {"other"}.__eq__) == {"other"}
        other["poll_interval"] = "2m"
        text = yaml.safe_dump({"sources": [s, other], "state": {"url": url}})
        assert daemon.reload() == (True, "reloaded")
        requests.clear()
        assert eventually(lambda: set(requests), lambda sent: len(sent) == 2, 5.0) == {"Bearer s", "Bearer other"}
        assert len(schedule._sources) == 2
    finally:
        daemon.stop()
