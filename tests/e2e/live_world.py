"""A simulated Snowplow in which runs start and complete all the time, and its truth."""

import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import yaml

from exporter.model import Result
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.server import Simulator
from exporter.state.store import Store
from tests.e2e.scrapes import Series
from tests.e2e.vendor_settings import vendor

STEPS = ("load", "model")
JOBS = (
    ("prod", "orders", STEPS),
    ("prod", "sessions", STEPS),
    ("prod", "costs", ()),
    ("qa", "orders", STEPS),
    ("qa", "digest", ()),
)
"""Project, name and the steps of each run."""

RESULTS = (Result.SUCCESS,) * 6 + (Result.FAILURE,) * 3 + (Result.SKIP,)
LONGEST = 2.5


class LiveWorld(ScriptedWorld):
    """A thread adds runs of up to two and a half seconds, a few per second, until `rest`.

    At the start there are past runs; some of them are active.
    """

    def __init__(self, seed: int, pause: float = 0.25) -> None:
        super().__init__()
        self._dice = random.Random(seed)
        self._pause = pause
        self._resting = threading.Event()
        self._last_end = 0.0
        self._thread = threading.Thread(target=self._live, daemon=True)
        for seconds in range(600):
            self._begin(time.time() - seconds)

    def start(self) -> "LiveWorld":
        self._thread.start()
        return self

    def rest(self) -> None:
        """Add no more runs; wait until all have completed."""
        self.stop()
        time.sleep(max(0.0, self._last_end - time.time()))

    def stop(self) -> None:
        """Add no more runs."""
        self._resting.set()
        self._thread.join()

    def _live(self) -> None:
        while not self._resting.wait(self._dice.expovariate(1 / self._pause)):
            self._begin(time.time())

    def _begin(self, now: float) -> None:
        project, job, steps = self._dice.choice(JOBS)
        run = self.run(
            job,
            project=project,
            created=round(now, 3),
            queue=round(self._dice.uniform(0, 0.4), 3),
            duration=round(self._dice.uniform(0.1, LONGEST - 0.5), 3),
            result=self._dice.choice(RESULTS),
            steps=steps,
        )
        self._last_end = max(self._last_end, run.end or 0.0)


def config(folder: Path, simulator: Simulator, state: Path | None = None, **metrics: object) -> Path:
    """Write a configuration that polls a simulator every second; return its path."""
    settings = {
        "sources": [source(simulator)],
        "state": {"path": str(state or folder / "state.db")},
        "metrics": {"zero_first": "0s", **metrics},
    }
    return written(folder, settings)


def source(simulator: Simulator, name: str = "live", **settings: object) -> dict[str, object]:
    """Return a source's block with the shortest interval and without rate limit."""
    fast = {"poll_interval": "1s", "settle": "1s", "requests_per_minute": 100_000, "timeout": "20s"}
    return {**simulator.source_config(name), **fast, **vendor(simulator.vendor).settings, **settings}


def written(folder: Path, settings: Mapping[str, object]) -> Path:
    """Write the configuration; return its path."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def baseline(state: Path, name: str = "live") -> float:
    """Return the baseline of a source, from its state."""
    store = Store(state, read_only=True)
    try:
        (timestamp,) = (source.baseline for source in store.load().sources if source.name == name)
    finally:
        store.close()
    assert timestamp is not None
    return timestamp


def truth(simulator: Simulator, since: float) -> Counter[Series]:
    """Return the true counts since a time as the vendor reports them, by the families of `pages.COUNTED`."""
    known = vendor(simulator.vendor)
    counts: Counter[Series] = Counter()
    for run in simulator.truth().endings:
        if run.end is not None and run.end > since and run.result is not None:
            result = str(known.results.get(run.result, run.result))
            counts["jobrun_runs_total", run.project, run.job, result] += 1
            if run.result not in known.unstarted:
                counts["jobrun_run_duration_seconds_count", run.project, run.job, result] += 1
            for name, step in ((known.step(number, step), step) for number, step in enumerate(run.steps)):
                if name:
                    counts["jobrun_steps_total", run.project, run.job, name, str(step.result)] += 1
    return counts
