"""One scenario, from its seed to its outcome."""

import gc
import random
import tempfile
import time
from pathlib import Path

import msgspec

from exporter.ledger.ledger import Ledger
from tests.chaos.audit import audit
from tests.chaos.gauges import Gauges
from tests.chaos.life import LedgerKind
from tests.chaos.scenario_harness import Plan, ScenarioHarness
from tests.chaos.troubles import TROUBLES, Ongoing
from tests.chaos.watch import UNBOUNDED
from tests.contract.harness import DAY, HOUR, MINUTE

LONGEST_QUIET = 12 * HOUR
"""Time without disruptions at the end, after which everything that can be known must be counted."""


ALL_STEPS = 5000
"""Runs above which only the steps of failed runs are read: each run costs a request."""

SIZES = (3000, 16_000, 24_000)
"""Runs per vendor, of which a seed chooses one: the more runs, the larger the responses."""

FEW_SERIES = 1000
"""`metrics.max_series` of some scenarios, in which some jobs fold into `__other__`."""

ENOUGH = 200
"""Discrepancies after which a scenario ends early."""


class ScenarioOutcome(msgspec.Struct, kw_only=True):
    """The outcome of a scenario. `take_overs`: seconds from the death of an owner to the next poll, of replicas."""

    seed: str
    layer: str = "simulated"
    days: float = 0.0
    seconds: float = 0.0
    processor: float = 0.0
    runs: int = 0
    kills: int = 0
    polls: int = 0
    scrapes: int = 0
    gauges: int = 0
    troubles: dict[str, int] = {}
    discrepancies: int = 0
    findings: list[str] = []
    take_overs: list[float] = []


def planned(seed: str, runs: int | None = None, days: float | None = None) -> Plan:
    """Return the plan of a seed; `runs` and `days` replace those that the seed chooses."""
    runs = runs or random.Random(f"{seed}/size").choice(SIZES)
    dice = random.Random(f"{seed}/plan")
    interval = dice.choice((30 * MINUTE, HOUR))
    weeks = dice.choice((7.0, 14.0))
    return Plan(
        seed=seed,
        days=days or weeks,
        runs=runs,
        poll_interval=interval,
        overlap=dice.choice((2, 4)) * interval,
        lookback=dice.choice((2 * DAY, 3 * DAY, 7 * DAY)),
        max_run_age=dice.choice((2 * DAY, 4 * DAY)),
        zero_first=dice.random() < 0.5,
        steps=dice.choice(("all", "failed")) if runs <= ALL_STEPS else "failed",
        sweep=dice.choice((HOUR, 12 * HOUR)) if runs <= ALL_STEPS else 12 * HOUR,
        max_series=FEW_SERIES if random.Random(f"{seed}/bound").random() < 1 / 6 else UNBOUNDED,
    )


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Options of a scenario.

    Attributes:
        runs: Runs per vendor, instead of those of its seed.
        days: Its length in days, instead of that of its seed.
        ledger: The exporter's, or a broken one.
        only: Names of the troubles that may happen; empty: all.
        enough: Discrepancies after which it ends early.
        pause: Polls between two troubles, on average.
    """

    runs: int | None = None
    days: float | None = None
    ledger: LedgerKind = Ledger
    only: tuple[str, ...] = ()
    enough: int = ENOUGH
    pause: float = 1.2


class Scenario:
    """Plays a plan: polls and troubles until the end of the world, then a quiet time and the audit."""

    def __init__(self, plan: Plan, folder: Path, options: Options) -> None:
        self.plan = plan
        self.harness = ScenarioHarness(plan, folder, options.ledger)
        self._options = options
        self._dice = random.Random(f"{plan.seed}/troubles")
        self._gauges = Gauges(self.harness)
        self._ongoing: list[Ongoing] = []
        self._checked = 0

    def play(self) -> ScenarioOutcome:
        """Play it; return its outcome."""
        begun, worked = time.perf_counter(), time.process_time()
        random.seed(self.plan.seed)  # retries wait for a random time
        harness = self.harness
        try:
            harness.round()
            self._trouble()
            self._settle()
            self._checked = audit(harness)
        finally:
            harness.disk.free()
            harness.close()
        return self._outcome(time.perf_counter() - begun, time.process_time() - worked)

    def _trouble(self) -> None:
        harness, names = self.harness, [name for name in TROUBLES if name in (self._options.only or TROUBLES)]
        weights = [TROUBLES[name][0] for name in names]
        following = harness.clock() + self._gap()
        while harness.clock() < self.plan.end - DAY and harness.findings.number < self._options.enough:
            self._step()
            if harness.clock() >= following:
                following = harness.clock() + self._gap()
                self._strike(self._dice.choices(names, weights)[0])

    def _gap(self) -> float:
        """Return the seconds to the next trouble, at times enough to test what is promised of gauges."""
        polls = 12 if self._dice.random() < 0.08 else self._options.pause
        return self._dice.expovariate(1 / (polls * self.plan.poll_interval))

    def _strike(self, name: str) -> None:
        harness = self.harness
        if harness.disk.full and "kill" not in name:
            return  # nothing can be copied or restarted now
        struck = TROUBLES[name][1](harness, self._dice)
        harness.tally[name] += bool(struck)
        if isinstance(struck, Ongoing):
            self._ongoing.append(struck)

    def _step(self) -> None:
        harness = self.harness
        harness.round()
        now = harness.clock()
        over = [each for each in self._ongoing if each.until <= now]
        for each in self._ongoing:
            harness.disturb(each.words)
            if each.wrong_rows:
                harness.answered_wrongly.update(dict.fromkeys(each.words, now))
        self._ongoing = [each for each in self._ongoing if each.until > now]
        for each in over:
            each.end()
        self._gauges.compare()

    def _settle(self) -> None:
        """End all troubles, and poll until nothing is pending."""
        for each in self._ongoing:
            self.harness.disturb(each.words)
            each.end()
        self._ongoing = []
        until = max(self.harness.clock(), self.plan.end) + LONGEST_QUIET
        while self.harness.clock() < until and self.harness.findings.number < self._options.enough:
            self._step()

    def _outcome(self, seconds: float, processor: float) -> ScenarioOutcome:
        harness = self.harness
        kills = harness.tally.pop("kills", 0)
        return ScenarioOutcome(
            seed=self.plan.seed,
            days=self.plan.days,
            seconds=round(seconds, 1),
            processor=round(processor, 1),
            runs=self._checked,
            kills=kills,
            polls=harness.polls,
            scrapes=harness.watch.scrapes,
            gauges=self._gauges.compared,
            troubles=dict(+harness.tally),
            discrepancies=harness.findings.number,
            findings=harness.findings.shown,
        )


def played(seed: str, options: Options) -> ScenarioOutcome:
    """Play the scenario of a seed; return its outcome."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        scenario = Scenario(planned(seed, options.runs, options.days), Path(folder), options)
        gc.freeze()  # a world of fifty thousand runs must not be scanned repeatedly
        try:
            return scenario.play()
        finally:
            gc.unfreeze()
