"""One part of a source that cannot be read affects no other part."""

from typing import Any

import httpx
import pytest

from exporter.simulators.disruptions import Drop, Garbage, Reset, Status
from tests.contract.harness import DAY, HOUR, MINUTE, NOW
from tests.fuzz.corrupting_transport import CorruptingTransport

HARMS: dict[str, Any] = {
    "500": lambda **where: Status(code=500, **where),
    "403": lambda **where: Status(code=403, **where),
    "garbage": Garbage,
    "reset": Reset,
}


@pytest.mark.able("job_path")
@pytest.mark.parametrize("harm", HARMS)
def test_an_unreadable_job_affects_no_other_and_is_caught_up(make, harm):
    bench = make()
    bench.busy(8 * HOUR, jobs=2, every=20 * MINUTE)
    bench.poll()
    bench.run(30 * MINUTE)
    bench.simulator.disruptions.add(HARMS[harm](path=bench.ability.job_path("job-0")))
    bench.run(30 * MINUTE)
    assert bench.value("jobrun_source_watermark_timestamp_seconds") > bench.clock() - bench.ability.quiet - 5 * MINUTE
    bench.run(2 * HOUR, every=5 * MINUTE)
    bench.restart()
    bench.run(3 * HOUR, every=10 * MINUTE)
    counted = {key: number for key, number in bench.counted().items() if key[1] == "job-1"}
    settled = bench.clock() - bench.ability.quiet - 2 * MINUTE
    wanted = {key: number for key, number in bench.truth(until=settled).items() if key[1] == "job-1"}
    assert all(counted.get(key, 0) >= number for key, number in wanted.items())
    bench.simulator.disruptions.clear()
    bench.clock.set(max(bench.clock(), NOW + 8 * HOUR))
    bench.settle(40)
    assert bench.counted() == bench.truth()
    assert bench.value("jobrun_source_unobserved_seconds_total") == 0


@pytest.mark.able("by_id")
@pytest.mark.parametrize("harm", ["500", "garbage"])
def test_an_open_run_unreadable_by_id_expires_and_affects_no_other(make, harm):
    bench = make(max_run_age="1d")
    bench.world.run("stuck", start=NOW - 60, duration=400 * DAY, run_id="stuck-run")
    bench.poll()
    bench.simulator.disruptions.add(HARMS[harm](path="stuck-run"))
    bench.at(bench.ability.pages, Drop, share=0.0, run_ids=("stuck-run",))
    for _ in range(36):
        bench.world.run("job-0", start=bench.clock() + 10, duration=60)
        bench.run(HOUR, every=20 * MINUTE)
    assert bench.counted() == {("prod", "job-0", "success"): 36, ("prod", "stuck", "unknown"): 1}
    assert bench.value("jobrun_source_up") == 1


class RefusingProxy(CorruptingTransport):
    """A proxy that refuses the password from some time on."""

    refuses = False
    requests = 0

    def handle_request(self, request):
        if not self.refuses:
            return super().handle_request(request)
        self.requests += 1
        raise httpx.ProxyError("407 Proxy Authentication Required")


def test_a_proxy_that_refuses_the_password_gets_one_request_per_poll(make):
    bench = make(wire=RefusingProxy, steps="all")
    bench.world.run("stuck", start=NOW - 60, duration=DAY)
    bench.poll()
    bench.busy(HOUR, steps=("load", "model"))
    bench.run(30 * MINUTE)
    bench.wire.refuses = True
    polls = 12
    for _ in range(polls):
        bench.clock.advance(MINUTE)
        assert bench.poll() == "error"
    assert bench.wire.requests <= polls
    bench.wire.refuses = False
    bench.clock.set(NOW + HOUR + 30 * MINUTE)
    bench.settle(40)
    assert bench.counted() == bench.truth()
