"""A world in which runs start and complete in real time, and the counts that an exporter must show of it."""

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
from tests.e2e.vendor_traits import traits_of

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
"""Seconds from the creation of a run to its end, at most."""


class LiveWorld(ScriptedWorld):
    """A world to which a thread adds a few runs per second, until `rest` or `stop`.

    At the start it has runs of the last 10 minutes. Some of them are active.
    """

    def __init__(self, seed: int, pause: float = 0.25) -> None:
        super().__init__()
        self._rng = random.Random(seed)
        self._pause = pause
        self._stopped = threading.Event()
        self._last_end = 0.0
        self._thread = threading.Thread(target=self._add_runs, daemon=True)
        for seconds in range(600):
            self._add_run(time.time() - seconds)

    def start(self) -> "LiveWorld":
        self._thread.start()
        return self

    def rest(self) -> None:
        """Add no more runs; wait until all have completed."""
        self.stop()
        time.sleep(max(0.0, self._last_end - time.time()))

    def stop(self) -> None:
        """Add no more runs."""
        self._stopped.set()
        self._thread.join()

    def _add_runs(self) -> None:
        while not self._stopped.wait(self._rng.expovariate(1 / self._pause)):
            self._add_run(time.time())

    def _add_run(self, now: float) -> None:
        project, job, steps = self._rng.choice(JOBS)
        run = self.run(
            job,
            project=project,
            created=round(now, 3),
            queue=round(self._rng.uniform(0, 0.4), 3),
            duration=round(self._rng.uniform(0.1, LONGEST - 0.5), 3),
            result=self._rng.choice(RESULTS),
            steps=steps,
        )
        self._last_end = max(self._last_end, run.end or 0.0)


def config(folder: Path, simulator: Simulator, state: Path | None = None, **metrics: object) -> Path:
    """Write a config that polls a simulator every second. Return its path."""
    settings = {
        "sources": [source(simulator)],
        "state": {"path": str(state or folder / "state.db")},
        "metrics": {"zero_first": "0s", **metrics},
    }
    return write_config(folder, settings)


def source(simulator: Simulator, name: str = "live", **settings: object) -> dict[str, object]:
    """Return the config of a source that polls a simulator every second, without a rate limit."""
    fast = {"poll_interval": "1s", "settle": "1s", "requests_per_minute": 100_000, "timeout": "20s"}
    return {**simulator.source_config(name), **fast, **traits_of(simulator.vendor).settings, **settings}


def write_config(folder: Path, settings: Mapping[str, object]) -> Path:
    """Write a config file. Return its path."""
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def baseline(state: Path, name: str = "live") -> float:
    """Read the baseline of a source from the state."""
    store = Store(state, read_only=True)
    try:
        (timestamp,) = (source.baseline for source in store.load().sources if source.name == name)
    finally:
        store.close()
    assert timestamp is not None
    return timestamp


def truth(simulator: Simulator, since: float) -> Counter[Series]:
    """Return the correct values of the families `COUNTED` for runs that completed after a time."""
    traits = traits_of(simulator.vendor)
    counts: Counter[Series] = Counter()
    for run in simulator.truth().endings:
        if run.end is not None and run.end > since and run.result is not None:
            result = str(traits.results.get(run.result, run.result))
            counts["jobrun_runs_total", run.project, run.job, result] += 1
            if run.result not in traits.never_started:
                counts["jobrun_run_duration_seconds_count", run.project, run.job, result] += 1
            for name, step in ((traits.step_name(number, step), step) for number, step in enumerate(run.steps)):
                if name:
                    counts["jobrun_steps_total", run.project, run.job, name, str(step.result)] += 1
    return counts
