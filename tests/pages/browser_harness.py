"""A real daemon that polls a simulated vendor, and a real browser that opens its pages."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.snowplow import SnowplowSimulator
from tests.e2e.live_world import source, write_config
from tests.e2e.processes import HOST, Daemon, eventually, free_port, require_tool
from tests.e2e.scrapes import fetch

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\"'></a></script><script>alert(2)</script>",
    "\u202egnirts desrever",
    "مرحبا/../..?a=b#c",
    "two\nlines",
    "n" * 200,
)

BULK = 230
STEPS = (
    {"name": "extract", "dependencies": []},
    {"name": "clean", "dependencies": ["extract"]},
    {"name": "enrich", "dependencies": ["extract"]},
    {"name": "<b>load</b>", "dependencies": ["clean"], "result": "failure"},
    {"name": "publish", "dependencies": ["<b>load</b>", "enrich"]},
)


def add_past_runs(world: ScriptedWorld) -> None:
    """Add past runs: a healthy job, a failing one, many runs, and hostile names."""
    now = time.time()
    for number in range(BULK):
        world.run("bulk", project="qa", created=now - 7200 - number * 60, duration=20.0 + number % 7)
    for number in range(12):
        world.run("orders", project="prod", created=now - 600 - number * 600, duration=60.0, steps=["load", "model"])
        world.run("sessions", project="prod", created=now - 20000 - number * 600, duration=50.0)
    for number in range(3):
        created = now - 900 - number * 600
        world.run("sessions", project="prod", created=created, duration=50.0, result="failure", steps=list(STEPS))
    for name in HOSTILE:
        world.run(name, project=name[:50], created=now - 500, duration=5.0, result="failure")


class BrowserHarness:
    """The running servers and browser. The daemon at `address` shows output of steps, that at `discreet` does not."""

    def __init__(self, world: ScriptedWorld, folder: Path, simulator: SnowplowSimulator, browser: Browser) -> None:
        self.world = world
        self.state = folder / "True" / "state.db"
        self.browser = browser
        self.daemons = [self._daemon(folder / str(logs), simulator, logs=logs) for logs in (True, False)]
        self.address, self.discreet = (f"http://{HOST}:{daemon.port}" for daemon in self.daemons)
        for daemon in self.daemons:
            eventually(partial(_ready, daemon.port))

    @staticmethod
    def _daemon(folder: Path, simulator: SnowplowSimulator, *, logs: bool) -> Daemon:
        folder.mkdir()
        console = {"run_url": "https://console.example.com/runs/{run_id}"}
        settings = {
            "sources": [source(simulator, "snow", **console)],
            "state": {"path": str(folder / "state.db")},
            "metrics": {"zero_first": "0s"},
            "web": {"logs": logs},
        }
        return Daemon(write_config(folder, settings), free_port())

    @contextmanager
    def page(self, **context: object) -> Iterator[Page]:
        """Open a page in its own browser context; any dialog, error or blocked content fails the test."""
        errors: list[str] = []
        with self.browser.new_context(**{"base_url": self.address, **context}) as opened:  # type: ignore[arg-type]
            page = opened.new_page()
            page.set_default_timeout(15_000)
            page.on("dialog", lambda dialog: _refuse(dialog, errors))
            page.on("pageerror", lambda error: errors.append(f"error: {error}"))
            page.on("console", lambda said: errors.append(said.text) if said.type in {"error", "warning"} else None)
            yield page
        assert errors == []


@contextmanager
def operation(folder: Path) -> Iterator[BrowserHarness]:
    """Starts everything, and ends it."""
    chromium = require_tool("chromium")
    world = ScriptedWorld()
    add_past_runs(world)
    with SnowplowSimulator(world) as simulator, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        running = BrowserHarness(world, folder, simulator, browser)
        try:
            yield running
        finally:
            browser.close()
            for daemon in running.daemons:
                daemon.kill()


def _ready(port: int) -> bool:
    try:
        return fetch(port, "/-/ready")[0] == 200
    except OSError:
        return False


def _refuse(dialog: Dialog, errors: list[str]) -> None:
    errors.append(f"dialog: {dialog.message}")
    dialog.dismiss()
