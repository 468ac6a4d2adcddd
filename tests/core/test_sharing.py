"""The threads of a replica."""

import threading

from exporter.ledger.ledger import Ledger
from exporter.metrics.zero_first import ZeroFirst
from exporter.replica import Handlers
from exporter.sharing import Shared
from exporter.state.lease_statements import LONGEST_SILENCE
from tests.e2e.processes import eventually


def test_leases_are_renewed_while_a_page_takes_long(url, admin):
    time, rendering, rendered = [0.0], threading.Event(), threading.Event()

    def publish():
        rendering.set()
        rendered.wait()

    def end():
        return admin.execute("SELECT until FROM leases WHERE source = 's'").fetchone()[0]

    shared = Shared(url, lambda: time[0])
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
    replica = shared.join(ledger, ZeroFirst(60.0, lambda: time[0]), handlers)
    shared.start(lambda task: task())
    try:
        assert rendering.wait(20)
        assert replica.owned == {"s"}
        for _ in range(3):
            before = end()
            time[0] += LONGEST_SILENCE - 1
            assert eventually(end, lambda after: after > before) > before  # noqa: B023  # called within this iteration
    finally:
        rendered.set()
        shared.stop(5.0)
    replica.tick()
    assert replica.owned == {"s"}
    assert replica.lost == 0
    ledger.close()
