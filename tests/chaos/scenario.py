"""Plays one scenario of simulated weeks, from its seed to its outcome."""

import gc
import random
import tempfile
import time
from pathlib import Path

import msgspec

from exporter.ledger.ledger import Ledger
from tests.chaos.disruptions import DISRUPTIONS, OngoingDisruption
from tests.chaos.final_audit import audit
from tests.chaos.gauge_audit import GaugeAuditor
from tests.chaos.page_audit import UNBOUNDED
from tests.chaos.scenario_harness import ScenarioHarness, ScenarioPlan
from tests.chaos.simulated_process import LedgerFactory
from tests.contract.harness import DAY, HOUR, MINUTE

SETTLE_TIME = 12 * HOUR
"""Seconds without disruptions at the end of a scenario. After them, all completed runs must be counted."""

MOST_RUNS_WITH_ALL_STEPS = 5000
"""Runs above which only steps of failed runs are read, because the steps of each run cost a request."""

SIZES = (3000, 16_000, 24_000)
"""Runs per vendor. The seed chooses one of these sizes."""

FEW_SERIES = 1000
"""`metrics.max_series` of some scenarios. With it, some jobs fold into `__other__`."""

MAX_DISCREPANCIES = 200
"""Discrepancies after which a scenario ends early."""


class ScenarioOutcome(msgspec.Struct, kw_only=True):
    """What was played and checked in a scenario of any layer, and what was found.

    Attributes:
        seconds: Duration in real time.
        runs: Completed runs that were compared with the truth.
        scrapes: Pages that were audited.
        gauges: Comparisons of all gauges of a source.
        disruptions: How often each disruption happened.
        discrepancies: Number of findings; `findings` may have only the first ones.
        take_overs: Of replicas, the seconds from the kill of each owner to the next request with its credential.
    """

    seed: str
    layer: str = "simulated"
    days: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    runs: int = 0
    kills: int = 0
    polls: int = 0
    scrapes: int = 0
    gauges: int = 0
    disruptions: dict[str, int] = {}
    discrepancies: int = 0
    findings: list[str] = []
    take_overs: list[float] = []


def plan_scenario(seed: str, runs: int | None = None, days: float | None = None) -> ScenarioPlan:
    """Return the plan that a seed chooses. `runs` and `days` replace the chosen ones."""
    runs = runs or random.Random(f"{seed}/size").choice(SIZES)
    rng = random.Random(f"{seed}/plan")
    poll_interval = rng.choice((30 * MINUTE, HOUR))
    chosen_days = rng.choice((7.0, 14.0))
    return ScenarioPlan(
        seed=seed,
        days=days or chosen_days,
        runs=runs,
        poll_interval=poll_interval,
        overlap=rng.choice((2, 4)) * poll_interval,
        lookback=rng.choice((2 * DAY, 3 * DAY, 7 * DAY)),
        max_run_age=rng.choice((2 * DAY, 4 * DAY)),
        zero_first=rng.random() < 0.5,
        steps=rng.choice(("all", "failed")) if runs <= MOST_RUNS_WITH_ALL_STEPS else "failed",
        sweep=rng.choice((HOUR, 12 * HOUR)) if runs <= MOST_RUNS_WITH_ALL_STEPS else 12 * HOUR,
        max_series=FEW_SERIES if random.Random(f"{seed}/bound").random() < 1 / 6 else UNBOUNDED,
    )


class ScenarioOptions(msgspec.Struct, frozen=True, kw_only=True):
    """ScenarioOptions of a scenario.

    Attributes:
        runs: Runs per vendor; None for the number that the seed chooses.
        days: Length of the scenario; None for the length that the seed chooses.
        ledger: Returns the ledger: the exporter's, or a mutant.
        only: Names of the disruptions that may happen; empty for all.
        max_discrepancies: Discrepancies after which the scenario ends early.
        pause: Polls between two disruptions, on average.
    """

    runs: int | None = None
    days: float | None = None
    ledger: LedgerFactory = Ledger
    only: tuple[str, ...] = ()
    max_discrepancies: int = MAX_DISCREPANCIES
    pause: float = 1.2


class Scenario:
    """Plays a plan: polls with disruptions, polls without disruptions, and the final audit."""

    def __init__(self, plan: ScenarioPlan, folder: Path, options: ScenarioOptions) -> None:
        self.plan = plan
        self.harness = ScenarioHarness(plan, folder, options.ledger)
        self._options = options
        # The texts of seeds never change, so that a seed plays the same scenario again.
        self._rng = random.Random(f"{plan.seed}/troubles")
        self._gauge_auditor = GaugeAuditor(self.harness)
        self._ongoing: list[OngoingDisruption] = []
        self._compared_runs = 0

    def play(self) -> ScenarioOutcome:
        """Play the scenario. Return its outcome."""
        started, cpu_started = time.perf_counter(), time.process_time()
        random.seed(self.plan.seed)  # the client waits for random times before retries
        harness = self.harness
        try:
            harness.advance()
            self._disrupt()
            self._settle()
            self._compared_runs = audit(harness)
        finally:
            harness.disk.free()
            harness.close()
        return self._outcome(time.perf_counter() - started, time.process_time() - cpu_started)

    def _disrupt(self) -> None:
        harness, names = self.harness, [name for name in DISRUPTIONS if name in (self._options.only or DISRUPTIONS)]
        weights = [DISRUPTIONS[name][0] for name in names]
        next_start = harness.clock() + self._pause()
        while harness.clock() < self.plan.end - DAY and harness.findings.number < self._options.max_discrepancies:
            self._step()
            if harness.clock() >= next_start:
                next_start = harness.clock() + self._pause()
                self._start(self._rng.choices(names, weights)[0])

    def _pause(self) -> float:
        """Return the seconds to the next disruption."""
        # Some pauses are long enough for gauges to recover, so that they are compared.
        polls = 12 if self._rng.random() < 0.08 else self._options.pause
        return self._rng.expovariate(1 / (polls * self.plan.poll_interval))

    def _start(self, name: str) -> None:
        harness = self.harness
        if harness.disk.full and "kill" not in name:
            return  # a full disk allows neither copies nor clean restarts
        started = DISRUPTIONS[name][1](harness, self._rng)
        harness.disruption_counts[name] += bool(started)
        if isinstance(started, OngoingDisruption):
            self._ongoing.append(started)

    def _step(self) -> None:
        harness = self.harness
        harness.advance()
        now = harness.clock()
        ended = [each for each in self._ongoing if each.until <= now]
        for each in self._ongoing:
            harness.mark_disrupted(each.vendors)
            if each.wrong_rows:
                harness.last_wrong_answer.update(dict.fromkeys(each.vendors, now))
        self._ongoing = [each for each in self._ongoing if each.until > now]
        for each in ended:
            each.end()
        self._gauge_auditor.audit()

    def _settle(self) -> None:
        """End all disruptions. Poll until everything is counted."""
        for each in self._ongoing:
            self.harness.mark_disrupted(each.vendors)
            each.end()
        self._ongoing = []
        until = max(self.harness.clock(), self.plan.end) + SETTLE_TIME
        while self.harness.clock() < until and self.harness.findings.number < self._options.max_discrepancies:
            self._step()

    def _outcome(self, seconds: float, cpu_seconds: float) -> ScenarioOutcome:
        harness = self.harness
        kills = harness.disruption_counts.pop("kills", 0)
        return ScenarioOutcome(
            seed=self.plan.seed,
            days=self.plan.days,
            seconds=round(seconds, 1),
            cpu_seconds=round(cpu_seconds, 1),
            runs=self._compared_runs,
            kills=kills,
            polls=harness.polls,
            scrapes=harness.page_auditor.pages,
            gauges=self._gauge_auditor.compared,
            disruptions=dict(+harness.disruption_counts),
            discrepancies=harness.findings.number,
            findings=harness.findings.texts,
        )


def play_scenario(seed: str, options: ScenarioOptions) -> ScenarioOutcome:
    """Play the scenario of a seed. Return its outcome."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        scenario = Scenario(plan_scenario(seed, options.runs, options.days), Path(folder), options)
        gc.freeze()  # so that the garbage collector does not scan the world repeatedly
        try:
            return scenario.play()
        finally:
            gc.unfreeze()
