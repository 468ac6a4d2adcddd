"""Plays a scenario of replicas that share a state in PostgreSQL, in real time."""

import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import psycopg

from exporter.simulators.world import MARK
from tests.chaos.replicas.database import FAKETIME, running_database
from tests.chaos.replicas.disruptions import REPLICA_DISRUPTIONS, ReplicaDisruption
from tests.chaos.replicas.fleet import Fleet, FleetPlan
from tests.chaos.replicas.mutants import apply_mutant
from tests.chaos.report import quantiles
from tests.chaos.scenario import ScenarioOutcome
from tests.e2e.processes import eventually

PAUSE = 0.8
"""Seconds between two disruptions, on average."""

START_TIMEOUT = 90.0
"""Seconds in which all sources must be polled after the start."""

FIRST_PAUSE = 3.0
"""Seconds between the first polls and the first disruption. A standby must have the baselines before a failover."""


LOSES_COMMITS = frozenset({"failover, commits lost", "dump restored", "old primary returns"})
"""Disruptions in which the database loses commits."""


STEP_ERRORS = (psycopg.Error, AssertionError, subprocess.SubprocessError)
"""Errors of a step that another disruption in progress may cause."""


class CutShortError(Exception):
    """A step of a disruption failed."""


FREEZES_REPLICA = ("SIGSTOP", "SIGSTOP in a transaction", "SIGSTOP after the lease's statement")
"""Disruptions after which a replica may send one more request per source without its lease."""


class OngoingReplicaDisruption(msgspec.Struct):
    """A disruption in progress. `due`: when its next step is due."""

    due: float
    disruption: ReplicaDisruption
    steps: Iterator[float]

    def do_step(self) -> bool:
        """Do the next step. Return False if it was the last one."""
        try:
            wait = next(self.steps, None)
        except STEP_ERRORS as error:
            raise CutShortError(str(error)) from error
        self.due = time.monotonic() + (wait or 0.0)
        return wait is not None


class DisruptionPlayer:
    """Plays random disruptions until enough replicas were killed or stopped. Several are in progress at once."""

    def __init__(self, fleet: Fleet, seed: str, only: Sequence[str]) -> None:
        self._fleet = fleet
        # The texts of seeds never change, so that a seed plays the same disruptions again.
        self._rng = random.Random(f"{seed}/troubles")
        self._table: Mapping[str, ReplicaDisruption] = {
            name: REPLICA_DISRUPTIONS[name] for name in only
        } or REPLICA_DISRUPTIONS
        self._ongoing: list[OngoingReplicaDisruption] = []
        self._chosen = ""

    def run(self, kills: int, seconds: float) -> None:
        """Play disruptions until enough kills, or for some seconds. Then end those in progress."""
        until = time.monotonic() + seconds
        next_start = time.monotonic()
        while self._fleet.kills < kills and time.monotonic() < until:
            self._advance(time.monotonic())
            if time.monotonic() >= next_start:
                next_start = time.monotonic() + self._rng.expovariate(1 / PAUSE)
                self._start()
            time.sleep(0.05)
        while self._ongoing:
            self._advance(float("inf"))
            time.sleep(0.25)

    def _advance(self, now: float) -> None:
        self._ongoing = [each for each in self._ongoing if now < each.due or self._do_step(each)]

    def _do_step(self, ongoing: OngoingReplicaDisruption) -> bool:
        """Do the next step of a disruption. Return False if it was the last one, or if it failed."""
        try:
            return ongoing.do_step()
        except CutShortError as error:
            print(f"a disruption is cut short: {error}"[:200], flush=True)
            self._fleet.disruption_counts["disruptions cut short"] += 1
            if ongoing.disruption.affects_database:
                eventually(self._revived, seconds=60)
            return False

    def _revived(self) -> bool:
        try:
            self._fleet.database.revive()
        except STEP_ERRORS:
            return False
        return True

    def _start(self) -> None:
        self._chosen = self._chosen or self._choose()
        name, disruption = self._chosen, self._table[self._chosen]
        if disruption.affects_all and self._ongoing:
            return  # nothing else starts before it
        self._chosen = ""
        if disruption.affects_database and any(each.disruption.affects_database for each in self._ongoing):
            return
        ongoing = OngoingReplicaDisruption(
            0.0, disruption, disruption.steps(self._fleet, random.Random(self._rng.random()))
        )
        if self._do_step(ongoing):
            self._fleet.disruption_counts[name] += 1
            self._ongoing.append(ongoing)

    def _choose(self) -> str:
        names = list(self._table)
        return self._rng.choices(names, [self._table[each].weight if len(names) > 1 else 1.0 for each in names])[0]


def plan_scenario(seed: str, only: Sequence[str]) -> FleetPlan:
    """Return the plan that a seed chooses."""
    rng = random.Random(f"{seed}/plan")
    plan = FleetPlan(
        pooler=rng.choice((0, 0, 0, 1, 5)),
        zero_first=rng.random() < 0.3,
        moving_clock=rng.random() < 0.2,
        alone=len(only) == 1,
    )
    if "PgBouncer restarted" in only:
        plan = msgspec.structs.replace(plan, pooler=1)
    if "old primary returns" in only:
        plan = msgspec.structs.replace(plan, pooler=0)
    moving = FAKETIME is not None and (plan.moving_clock or "database's clock jumps" in only)
    return msgspec.structs.replace(plan, moving_clock=moving)


def run_replica_chaos(
    seed: str,
    kills: int,
    *,
    only: Sequence[str] = (),
    mutant: str = "",
    seconds: float = 600.0,
    logs: Path | None = None,
) -> ScenarioOutcome:
    """Play the scenario of a seed until enough kills, or for some seconds. Return its outcome.

    Args:
        seed: Seed of all random numbers.
        kills: Number of replicas to kill or stop.
        only: Names of the disruptions that may happen; empty for all.
        mutant: Name of the broken replica; "" for the exporter.
        seconds: Maximum duration.
        logs: Folder in which the logs of the replicas are kept; None for no folder.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    plan = plan_scenario(seed, only)
    with running_database(moving_clock=plan.moving_clock) as (folder, database, small):
        plan = msgspec.structs.replace(plan, small_disk=small)
        fleet = Fleet(folder, database, plan, seed, partial(apply_mutant, mutant) if mutant else None)
        try:
            if not eventually(fleet.all_polled, seconds=START_TIMEOUT):
                fleet.findings.append("not every source is polled after the start")
                seconds = 0.0
            fleet.auditor.start()
            fleet.holders.start()
            time.sleep(FIRST_PAUSE)
            DisruptionPlayer(fleet, seed, only).run(kills, seconds)
            runs = fleet.settle()
            fleet.auditor.stop()
            fleet.holders.stop()
            lossless = not fleet.disruption_counts.keys() & LOSES_COMMITS
            findings = [
                *fleet.findings,
                *dict.fromkeys(fleet.auditor.findings),
                *_requests_without_lease(fleet),
                *_log_findings(fleet),
            ]
            findings += dict.fromkeys(fleet.auditor.lost) if lossless else ()
            findings += _wrong_cold_starts(fleet) if lossless else ()
            findings += fleet.auditor.started if lossless and not database.failovers else ()
            fleet.disruption_counts["counters of polls that fell after lost commits"] = len(fleet.auditor.lost)
        finally:
            fleet.close()
            if logs is not None:
                for replica in fleet.replicas:
                    (logs / f"{seed}-{replica.number}.log").write_text(replica.log())
        failovers = database.failovers
    fleet.disruption_counts["failovers"] = failovers
    print(f"{seed}: {plan}, take-overs {quantiles(fleet.requests.take_overs)}", flush=True)
    return ScenarioOutcome(
        seed=seed,
        layer="replicas",
        seconds=round(time.perf_counter() - started, 1),
        cpu_seconds=round(time.process_time() - cpu_started, 1),
        runs=runs,
        kills=fleet.kills,
        scrapes=fleet.auditor.scrapes,
        disruptions=dict(fleet.disruption_counts),
        discrepancies=len(findings),
        findings=findings[:20],
        take_overs=[round(each, 1) for each in fleet.requests.take_overs],
    )


def _requests_without_lease(fleet: Fleet) -> Iterator[str]:
    """Yield a finding for each replica that used a credential without its lease."""
    found = fleet.requests.without_lease(fleet.holders, fleet.numbers())
    fleet.disruption_counts["requests without a lease"] = found.total()
    for (vendor, replica), number in found.items():
        if number > 3 + sum(fleet.disruption_counts[name] for name in FREEZES_REPLICA):
            yield f"replica {replica} sent {number} requests to {vendor} while another had the lease"


def _log_findings(fleet: Fleet) -> Iterator[str]:
    """Yield findings of customer data and of exceptions in the logs."""
    for replica in fleet.replicas:
        log = replica.log()
        if MARK in log:
            yield f"the log of replica {replica.number} holds {MARK[:4]}…"
        lines = log.splitlines()
        for number, line in enumerate(lines):
            if "Traceback" in line or '"at":"' in line or "heartbeat task failed" in line:
                rest = " | ".join(lines[number : number + 40])
                yield f"the log of replica {replica.number} reports an exception of our own: {rest[:3000]}"
                break


def _wrong_cold_starts(fleet: Fleet) -> Iterator[str]:
    """Yield a finding if cold starts because of lost commits are reported although none was lost."""
    rewound = sum(value for series, value in fleet.auditor.values().items() if 'reason="rewound"' in series)
    if rewound:
        yield f"{rewound:g} cold starts because of lost commits, and none was lost"
