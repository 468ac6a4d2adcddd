"""Requests per idle poll of each vendor, counted by its simulator, with ten jobs that run once per day.

Usage: python -m benchmarks.requests [POLLS]
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog
import yaml
from prometheus_client import CollectorRegistry

from benchmarks.measure import Figure, print_table
from exporter.assembly import Assembly, Clocks, NoPublisher, counting_rules
from exporter.config import loads
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.simulators import SIMULATORS
from exporter.simulators.generated import GeneratedWorld, JobPlan, StepPlan
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state

DAY, MINUTE = 86400.0, 60.0
BEGIN = 1_780_000_000.0
PLANS = tuple(
    JobPlan(name=f"job-{number}", project="prod", interval=DAY, duration=5 * MINUTE, steps=(StepPlan("load"),))
    for number in range(10)
)


def measure(polls=240):
    """Yield the figure of each vendor, after polls of an hour in which everything was read once."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for vendor, kind in SIMULATORS.items():
        sent, open_runs = requests(kind, polls)
        note = f"{polls} polls, one per minute, {open_runs} runs happened; sign-ins included"
        yield Figure(group="requests per idle poll", what=vendor, value=sent / polls, note=note)


def requests(kind, polls):
    now = [BEGIN]
    world = GeneratedWorld(PLANS, seed=1, speed=1.0, birth=BEGIN - 7 * DAY, id_digits=kind.demo_id_digits)
    with TemporaryDirectory() as folder, kind(world, lambda: now[0]) as simulator:
        settings = {"sources": [{**simulator.source_config(), "requests_per_minute": 100_000, "poll_interval": "1m"}]}
        config = loads(yaml.safe_dump(settings), {}, KNOWN_NAMES)
        ledger = Ledger(lambda: open_state(Path(folder) / "state.db", lambda: now[0]))
        ledger.load()

        def sleep(seconds):
            now[0] += seconds

        outside = Clocks(clock=lambda: now[0], monotonic=lambda: now[0], sleep=sleep)
        assembly = Assembly(config, ledger, RequestMetrics(CollectorRegistry()), NoPublisher(), outside)
        rules = {name: each.rules for name, each in assembly.configured.items()}
        ledger.configure(rules, counting_rules(config), config.metrics.step_histograms)
        [polled] = assembly.scheduled
        warm = min(60, polls)
        for number in range(warm + polls):
            if number == warm:
                simulator.log.clear()
            assert polled.poller.poll() != "error", polled.poller.status.error
            now[0] += MINUTE
        sent = sum(simulator.log.counts().values())
        happened = sum(
            run.end is not None and run.end >= now[0] - polls * MINUTE
            for run in world.runs(now[0] - polls * MINUTE, now[0])
        )
        assembly.close()
        ledger.close()
        return sent, happened


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:2])))
