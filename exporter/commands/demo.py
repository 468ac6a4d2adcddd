"""The command `demo`: all simulated vendors, and the daemon that polls them."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import yaml

from exporter import logs
from exporter.commands.run import serve
from exporter.config import loads
from exporter.simulators import SIMULATORS
from exporter.simulators.demo import objectives
from exporter.sources import KNOWN_NAMES
from exporter.web.address import Address

DEMO = """
metrics:
  zero_first: 0s  # a demo shows the first failure at once
  run_buckets: [1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 300]
  step_buckets: [0.5, 1, 2, 5, 10, 20, 30, 60]
web: {logs: true}  # simulated output contains no customers' data
"""


def demo(listen: Address, speed: float) -> int:
    """Run all simulated vendors and a daemon that polls them, until a signal stops both. Return the exit code."""
    logs.configure(logs.LogOptions("info"), sys.stderr)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobrun-exporter-demo-")))
        simulators = [stack.enter_context(kind.demo(speed=speed)) for kind in SIMULATORS.values()]
        settings = yaml.safe_load(DEMO)
        if listen.port:
            settings["web"]["external_url"] = f"http://{Address(listen.host or 'localhost', listen.port)}"
        settings["objectives"] = objectives(speed)
        settings["state"] = {"path": str(folder / "state.db")}
        settings["sources"] = [
            {**simulator.source_config(), "poll_interval": "5s", "settle": "5s", "requests_per_minute": 600}
            for simulator in simulators
        ]
        text = yaml.safe_dump(settings)
        for simulator in simulators:
            sys.stdout.write(f"simulated {simulator.vendor}: {simulator.url} (ground truth: /-/truth)\n")
        return serve(lambda: loads(text, os.environ, KNOWN_NAMES), listen, started=_print_urls)


def _print_urls(address: Address) -> None:
    host = address.host or "localhost"
    sys.stdout.write(f"pages:   http://{Address(host, address.port)}/\n")
    sys.stdout.write(f"metrics: http://{Address(host, address.port)}/metrics\n")
    sys.stdout.flush()
