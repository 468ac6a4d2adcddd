"""What a poll of Snowplow costs beside decoding its answer: known runs, an unchanged answer, new runs.

Usage: python benchmarks/poll.py [RUNS]
"""

import json
import secrets
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import structlog
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Outside, counting_rules
from exporter.config import loads
from exporter.ledger import Ledger
from exporter.meters import SelfMetrics
from exporter.once import NoPages
from exporter.opening import open_state
from exporter.sources import SOURCES
from exporter.sources.snowplow_api import parse_rows

CONFIG = """
sources:
  - name: bench
    type: snowplow
    organization_id: acme
    auth: {api_key: benchmark}
    requests_per_minute: 1000000
    steps: "off"
"""
TOKEN = {"accessToken": "a.b.c"}
REPEATS = 7


def rows(count, start, state="SUCCEEDED"):
    stamp = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%dT%H:%M:%S.123Z")
    return [
        {
            "runId": secrets.token_hex(32),
            "jobId": secrets.token_hex(32),
            "jobName": f"job-{number % 100}",
            "environment": "com.acme-prod1",
            "state": state,
            "startTime": stamp,
            "duration": "PT5M12.5S",
            "failureReason": None,
        }
        for number in range(count)
    ]


class Api:
    """Answers every list with the same body."""

    def __init__(self):
        self.body = b"[]"

    def __call__(self, request):
        if "token" in request.url.path:
            return httpx.Response(200, json=TOKEN)
        return httpx.Response(200, content=self.body)


def cost(action):
    """Seconds of CPU of this process."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def best(make):
    """The least cost of some repeats; `make` gives a new action each time."""
    return min(cost(make()) for _ in range(REPEATS))


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    settings = {word: kind.settings for word, kind in SOURCES.items()}
    config = loads(CONFIG, {}, settings)
    api = Api()
    outside = Outside(transport=httpx.MockTransport(api))
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(lambda: open_state(Path(folder) / "state.db", time.time))
        ledger.load()
        assembly = Assembly(config, ledger, SelfMetrics(CollectorRegistry()), NoPages(), outside)
        rules = {name: shown.rules for name, shown in assembly.shown.items()}
        ledger.configure(rules, counting_rules(config), "off")
        poller = assembly.polled[0].poller
        poller.poll()

        known = rows(count, time.time() - 1800)

        def one_more():
            """An answer of known runs and a running one that is new, so that the body differs."""
            api.body = json.dumps([*known, *rows(1, time.time() - 60, "RUNNING")]).encode()
            return poller.poll

        def all_new():
            api.body = json.dumps(rows(count, time.time() - 1800)).encode()
            return poller.poll

        new = best(all_new)
        one_more()()
        with_known = best(one_more)
        unchanged = best(lambda: poller.poll)
        body = api.body
    typed = best(lambda: lambda: parse_rows(body))
    plain = best(lambda: lambda: json.loads(body))
    print(f"{count} runs, {len(body) / 1e6:.1f} MB; CPU of one poll, x typed decode ({typed * 1e3:.1f} ms):")
    for name, seconds in {
        "json.loads": plain,
        "poll, unchanged answer": unchanged,
        "poll, all known but one": with_known,
        "poll, all new": new,
    }.items():
        print(f"  {name:26} {seconds / typed:6.2f}   ({seconds / count * 1e6:.2f} us a run)")


if __name__ == "__main__":
    main()
