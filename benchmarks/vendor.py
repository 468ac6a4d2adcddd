"""Snowplow sources whose API returns prepared responses at once, and whose clock a benchmark moves."""

import json
import random
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import structlog
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, NoPublisher, counting_rules
from exporter.config import loads
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state

SOURCE = """
  - name: {name}
    type: snowplow
    organization_id: {name}
    auth: {{api_key: benchmark}}
    requests_per_minute: 1000000
    steps: "off"
"""
TOKEN = {"accessToken": "a.b.c"}
HOUR = 3600
BEGIN = 1_780_000_000.0
RNG = random.Random(1)


def rows(count, start, seconds=HOUR / 2, *, jobs=100, state="SUCCEEDED"):
    """Return rows of runs that started one after another within `seconds`. Their IDs are random."""
    return [
        {
            "runId": f"{RNG.getrandbits(256):064x}",
            "jobId": f"{RNG.getrandbits(256):064x}",
            "jobName": f"job-{number % jobs}",
            "environment": "com.acme-prod1",
            "state": state,
            "startTime": stamp(start + number * seconds / count),
            "duration": "PT5M12.5S",
            "failureReason": None,
        }
        for number in range(count)
    ]


def stamp(timestamp):
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def body(runs):
    return json.dumps(runs).encode()


class Api:
    """A fake API that returns the same body for every list."""

    def __init__(self):
        self.body = b"[]"

    def __call__(self, request):
        if "token" in request.url.path:
            return httpx.Response(200, json=TOKEN)
        return httpx.Response(200, content=self.body)


class PolledSources:
    """Sources with a ledger in a file. `now` is their clock."""

    def __init__(self, folder, sources=1, opener=None):
        self.now = BEGIN
        self.api = Api()
        self.path = Path(folder) / "state.db"
        self.ledger = Ledger(opener or (lambda: open_state(self.path, lambda: self.now)))
        self.ledger.load()
        text = "sources:" + "".join(SOURCE.format(name=f"source-{number}") for number in range(sources))
        config = loads(text, {}, KNOWN_NAMES)
        outside = Clocks(transport=httpx.MockTransport(self.api), clock=lambda: self.now)
        self.assembly = Assembly(config, self.ledger, RequestMetrics(CollectorRegistry()), NoPublisher(), outside)
        rules = {name: each.rules for name, each in self.assembly.configured.items()}
        self.ledger.configure(rules, counting_rules(config), "off")
        self.pollers = [polled.poller for polled in self.assembly.scheduled]

    def poll(self):
        """Poll every source once. Each poll must succeed."""
        for poller in self.pollers:
            outcome = poller.poll()
            assert outcome == "success", (outcome, poller.status.error)

    def pass_hour(self, count, jobs=100):
        """Move the clock by an hour in which `count` runs complete. Return their rows."""
        begun, self.now = self.now, self.now + HOUR
        runs = rows(count, begun + 60, jobs=jobs)
        self.api.body = body(runs)
        return runs

    def counted(self):
        """Return the number of counted completions."""
        jobs = self.ledger.committed.jobs.values()
        return sum(count.value for job in jobs for count in job.counts["jobrun_runs_total"].values())

    def close(self):
        self.assembly.close()
        self.ledger.close()


@contextmanager
def polled_sources(sources=1, opener=None):
    """Yield sources after their first poll, so that runs that complete from now on are counted."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with TemporaryDirectory() as folder:
        polling = PolledSources(folder, sources, opener)
        polling.poll()
        try:
            yield polling
        finally:
            polling.close()
