"""Four simulated vendors, one clock, and one exporter after another that reads them all."""

import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from exporter import logs
from exporter.simulators import SIMULATORS
from exporter.simulators.clock import Clock
from exporter.simulators.server import Simulator
from exporter.simulators.snowplow_sign_in import SnowplowCredentials
from exporter.simulators.world import MARK
from tests.chaos.crashable import Disk, Killed, Place, copied
from tests.chaos.direct import TIMEOUT, Direct
from tests.chaos.ground_truth import GroundTruth
from tests.chaos.life import Around, LedgerKind, Life
from tests.chaos.quick import quick
from tests.chaos.renamed import EXCLUDED
from tests.chaos.watch import UNBOUNDED, Findings, Watch
from tests.chaos.worlds import DenseWorld, Size, drawn
from tests.contract.harness import DAY, HOUR, MINUTE, NOW, Offset
from tests.e2e.vendor_traits import traits_of

TOKEN = "eyJhbGciOi"
"""Prefix of every token that a simulated sign-in issues."""


NEWEST = 900
"""Northflank's runs per day at most. It has no overlapping windows: the newest hundred runs of a job must include
those that a wrong response omitted."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario: everything follows from these.

    Attributes:
        seed: Decides everything random.
        days: How long it lasts.
        runs: Runs per vendor.
        poll_interval: In seconds, as the others.
        overlap, lookback, max_run_age: Of every source.
        zero_first: Whether new series start at 0.
        steps: Which runs' steps are read.
        sweep: Seconds between two sweeps of the last day, where a source has them.
        max_series: The configured bound.
    """

    seed: str
    days: float
    runs: int
    poll_interval: float
    overlap: float
    lookback: float
    max_run_age: float
    zero_first: bool
    steps: str
    sweep: float
    max_series: int = UNBOUNDED

    @property
    def bounded(self) -> bool:
        """Return whether jobs fold into `__other__`, so that only sums can be compared."""
        return self.max_series < UNBOUNDED

    @property
    def end(self) -> float:
        """Return when the scenario ends."""
        return NOW + self.days * DAY

    def promised(self, word: str) -> float:
        """Return the seconds without trouble after which gauges must be current."""
        quiet = max(15 * MINUTE, 2 * self.poll_interval) if word == "northflank" else 0.0
        return 4 * self.poll_interval + 10 * MINUTE + quiet


class Flowing:
    """The vendors' clock: responses take time while `latency` is not 0."""

    def __init__(self, clock: Clock, seed: str) -> None:
        self._clock = clock
        self._dice = random.Random(f"{seed}/latency")
        self.latency = 0.0

    def __call__(self) -> float:
        return self._clock.advance(self._dice.uniform(0, self.latency)) if self.latency else self._clock()


class Log(io.StringIO):
    """The exporter's log. `broken`: the error of writing to it, if any."""

    broken: OSError | None = None

    def write(self, text: str) -> int:
        """Keep a line, or fail as a stream without a reader does."""
        if self.broken is not None:
            raise self.broken
        return super().write(text)


class ScenarioHarness:
    """Everything in one scenario apart from its troubles.

    Attributes:
        words: The vendors; each is a source of its name.
        absent: Sources that are not configured at present.
        frail: Where the next process crashes, if it is to crash early.
        next: When each source is polled next.
        disturbed: When each source was last disturbed.
        answered_wrongly: When each API last gave a wrong answer.
        well: When a poll of each source last succeeded.
        outages: When no exporter ran for longer than it can catch up.
        unread: When no poll of a source succeeded for half as long as that, or its state was lost.
        poisoned: Jobs that an API cannot list, by source, project and name.
        tally: How often each trouble happened.
    """

    def __init__(self, plan: Plan, folder: Path, ledger: LedgerKind) -> None:
        self.plan = plan
        self.clock = Clock(NOW + 0.5)
        self.local = Offset(self.clock)
        self.flowing = Flowing(self.clock, plan.seed)
        self.dice = random.Random(f"{plan.seed}/stage")
        self.findings = Findings(self.clock)
        self.tally: Counter[str] = Counter()
        self.poisoned: set[tuple[str, str, str]] = set()
        self.polls = 0
        self.words = tuple(SIMULATORS)
        most = {"northflank": NEWEST * plan.days}
        sizes = {word: int(min(plan.runs, most.get(word, plan.runs))) for word in self.words}
        worlds = {
            word: drawn(word, plan.seed, Size(begin=NOW, end=plan.end, runs=sizes[word], renames=not plan.bounded))
            for word in self.words
        }
        self.truths = {word: GroundTruth(word, worlds[word], plan.max_run_age) for word in self.words}
        self.simulators: Mapping[str, Simulator] = {
            word: quick(word)(
                worlds[word], self.flowing, seed=self.dice.getrandbits(32), port=port, **arguments_of(word)
            )
            for port, word in enumerate(self.words, start=1)
        }
        self.network = Direct(self.simulators.values(), self.clock.advance)
        self.log = Log()
        logs.configure(logs.LogOptions(level="debug", format="json"), self.log, self.clock)
        self.forbidden = (MARK, TOKEN, *(word for each in self.simulators.values() for word in secrets_of(each)))
        self.watch = Watch(self.findings, self.forbidden, zero_first=plan.zero_first, max_series=plan.max_series)
        self.disk = Disk(folder / "disk")
        self._generation = 0
        self.state = self.disk.folder / "0" / "state.db"
        self.state.parent.mkdir()
        self.copies: list[tuple[float, Path]] = []
        self.absent: set[str] = set()
        self.frail: tuple[Place, int] | None = None
        self.overrides: dict[str, object] = {}
        self.next = dict.fromkeys(self.words, 0.0)
        self.disturbed = dict.fromkeys(self.words, NOW)
        self.answered_wrongly = dict.fromkeys(self.words, NOW)
        self.outages: list[tuple[float, float]] = []
        self.unread: dict[str, list[tuple[float, float]]] = {word: [] for word in self.words}
        self.well = dict.fromkeys(self.words, NOW)
        self.polls_begun: dict[str, list[float]] = {word: [] for word in self.words}
        self._around = Around(
            clock=self.local, monotonic=self.clock, sleep=self._sleep, transport=self.network, ledger=ledger
        )
        self._rise()

    def _sleep(self, seconds: float) -> bool:
        self.clock.advance(seconds)
        return False

    # --- the exporter ---

    def settings(self) -> dict[str, object]:
        """Return the current configuration."""
        plan = self.plan
        common: dict[str, object] = {
            "poll_interval": written(plan.poll_interval),
            "overlap": written(plan.overlap),
            "lookback": written(plan.lookback),
            "max_run_age": written(plan.max_run_age),
            "requests_per_minute": 100_000,
            "timeout": written(TIMEOUT),
            "jobs": {"exclude": [EXCLUDED]},
        }
        blocks = [
            {**self.simulators[word].source_config(word), **common, **own_settings(word, plan), **self.overrides}
            for word in self.words
            if word not in self.absent
        ]
        retention = max(plan.lookback, plan.max_run_age) + 2 * plan.overlap + HOUR
        return {
            "sources": blocks,
            "state": {"path": str(self.state), "retention": written(retention)},
            "metrics": {
                "zero_first": "2m" if plan.zero_first else "0s",
                "job_expiry": "20d",
                "max_series": plan.max_series,
            },
        }

    def _rise(self) -> None:
        """Start a process; it may crash during the start."""
        self.life = Life(self.settings(), self.state, self._around)
        if self.frail is not None:
            self.life.crashable.arm(*self.frail)
            self.frail = None
        self.next = {word: self.clock() + number * 0.25 for number, word in enumerate(self.words)}
        self.disturb(self.words)
        try:
            self.life.start()
        except Killed:
            self.die()

    def guarded(self, act: Callable[[], object]) -> None:
        """Call something; if the process crashes, start another."""
        try:
            act()
        except Killed:
            self.die()

    def die(self, down: float = 0.0) -> None:
        """Kill the process, keep its files as they were, and start another."""
        self.tally["kills"] += 1
        self.disk.free()
        before, life = self.state.parent, self.life
        life.crashable.dead = True
        self.state = copied(self.state, self._folder())
        life.bury()
        remove(before)
        self.clock.advance(down)
        self._rise()

    def restart(self, down: float = 0.0) -> None:
        """Stop the process cleanly, and start another."""
        self.life.stop()
        self.clock.advance(down)
        self._rise()

    def copy_state(self) -> None:
        """Copy the state, as an administrator does."""
        copy = copied(self.state, self.disk.folder / f"copy-{len(self.copies)}")
        self.copies.append((self.clock(), copy))

    def put_back(self, made: float, copy: Path) -> None:
        """Replace the state by an older copy."""
        self.life.stop()
        for read in self.unread.values():
            read.append((made, self.clock()))
        before = self.state.parent
        self.state = copied(copy, self._folder())
        remove(before)
        self.watch.forget()
        for truths in self.truths.values():
            if truths.renamed is not None:
                truths.renamed.doubt()
        self._rise()

    def _folder(self) -> Path:
        self._generation += 1
        return self.disk.folder / str(self._generation)

    def reload(self) -> None:
        """Reload with the current configuration."""
        self.guarded(lambda: self.life.reload(self.settings()))
        for word in self.words:
            self.next[word] = self.clock()
        self.disturb(self.words)

    # --- time ---

    def first_poll(self, word: str) -> float:
        """Return when a source was first polled."""
        return self.polls_begun[word][0] if self.polls_begun[word] else float("inf")

    def listen(self, words: Iterable[str], *, listening: bool) -> None:
        """Make these APIs listen, or stop listening."""
        for word in words:
            self.network.endpoints[self.simulators[word].url].listening = listening

    def disturb(self, words: Iterable[str]) -> None:
        """Note that these sources are disturbed now."""
        for word in words:
            self.disturbed[word] = self.clock()

    def round(self) -> None:
        """Move the clock to the next poll, poll all due sources, and scrape."""
        present = [word for word in self.words if word not in self.absent]
        self.clock.set(max(self.clock(), min(self.next[word] for word in present)))
        for word in present:
            if self.next[word] <= self.clock() and word not in self.absent:
                self.guarded(lambda word=word: self._poll(word))  # type: ignore[misc]  # bound at once
        self.look()

    def _poll(self, word: str) -> None:
        begun = self.clock()
        polled = self.life.polled[word]
        self.polls += 1
        self.polls_begun[word].append(begun)
        polled.poller.poll()
        self.next[word] = max(begun + polled.poller.wait(), self.clock())

    def look(self) -> None:
        """Run one heartbeat and one scrape."""
        self.guarded(self.life.tick)
        self.guarded(lambda: self.watch.take(self.life.scrape()))
        for word in self.words:
            if self.watch.value("jobrun_source_up", source=word) == 1:
                since, self.well[word] = self.well[word], self.clock()
                if self.clock() - since > self.plan.lookback / 2:
                    self.unread[word].append((since, self.clock()))
            renamed = self.truths[word].renamed
            if renamed is not None and word not in self.absent:
                renamed.look(self.clock(), self.watch.by_job("jobrun_runs_total", word))

    def close(self) -> None:
        self.life.crashable.disarm()
        self.life.stop()
        self.disk.close()
        structlog.reset_defaults()


def remove(folder: Path) -> None:
    for part in folder.iterdir():
        part.unlink()
    folder.rmdir()


def written(seconds: float) -> str:
    """Return a duration as the configuration has it."""
    return f"{int(seconds)}s"


def simulator(word: str, world: DenseWorld, clock: Callable[[], float], number: int) -> Simulator:
    """Return a vendor's API without a socket; its number replaces the port."""
    return quick(word)(world, clock, port=number, seed=number, **arguments_of(word))


def arguments_of(word: str) -> dict[str, Any]:
    """Return a simulator's arguments: no rate limits, large pages, and a key of its own."""
    arguments = dict(traits_of(word).arguments)
    if word == "snowplow":
        arguments["credentials"] = SnowplowCredentials(api_key="planted-snowplow-secret")
    if word == "workato":
        arguments["options"] = msgspec.structs.replace(arguments["options"], page_size=50)
    return arguments


def own_settings(word: str, plan: Plan) -> dict[str, object]:
    """Return settings that only some sources have."""
    steps: dict[str, object] = {} if word == "northflank" else {"steps": plan.steps}
    sweep = {"sweep": {"interval": written(plan.sweep), "window": "24h"}}
    return steps | (sweep if word in ("snowplow", "strait") else {})


def secrets_of(simulator: Simulator) -> list[str]:
    """Return the secrets of a source's sign-in."""
    auth = simulator.source_config()["auth"]
    assert isinstance(auth, Mapping)
    return [str(value) for key, value in auth.items() if key != "api_key_id"]
