"""Plays troubles of replicas that share a state in PostgreSQL, in real time, several at once."""

import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import psycopg

from exporter.simulators.world import MARK
from tests.chaos.replicas.database import FAKETIME, database
from tests.chaos.replicas.fleet import Fleet, Plan
from tests.chaos.replicas.mutants import apply
from tests.chaos.replicas.troubles import TROUBLES, Entry
from tests.chaos.report import quantiles
from tests.chaos.scenario import ScenarioOutcome
from tests.e2e.processes import eventually

PAUSE = 0.8
"""Seconds between two troubles, on average."""

START = 90.0
"""Seconds until all sources must have been polled."""

QUIET = 3.0
"""Seconds between the first polls and the first trouble: a standby without the baselines makes a new state."""


LOSING = frozenset({"failover, commits lost", "dump restored", "old primary returns"})
"""Troubles in which the database forgets commits."""


UNMADE = (psycopg.Error, AssertionError, subprocess.SubprocessError)
"""Errors while a trouble is made. Several troubles are in progress at once."""


class CutShortError(Exception):
    """A trouble could not be made, or not undone."""


STALLING = ("SIGSTOP", "SIGSTOP in a transaction", "SIGSTOP after the lease's statement")


class Going(msgspec.Struct):
    """A trouble in progress, and the time of its next part."""

    due: float
    entry: Entry
    steps: Iterator[float]

    def go_on(self) -> bool:
        """Do its next part. Return False if that was the last part."""
        try:
            wait = next(self.steps, None)
        except UNMADE as error:
            raise CutShortError(str(error)) from error
        self.due = time.monotonic() + (wait or 0.0)
        return wait is not None


class Rampage:
    """Draws troubles until enough replicas are killed or stopped; several are in progress at once."""

    def __init__(self, fleet: Fleet, seed: str, only: Sequence[str]) -> None:
        self._fleet = fleet
        self._dice = random.Random(f"{seed}/troubles")
        self._table: Mapping[str, Entry] = {name: TROUBLES[name] for name in only} or TROUBLES
        self._going: list[Going] = []
        self._next = ""

    def run(self, kills: int, seconds: float) -> None:
        """Play troubles until there were enough kills, or for some seconds. Then undo the troubles in progress."""
        until = time.monotonic() + seconds
        begin = time.monotonic()
        while self._fleet.kills < kills and time.monotonic() < until:
            self._advance(time.monotonic())
            if time.monotonic() >= begin:
                begin = time.monotonic() + self._dice.expovariate(1 / PAUSE)
                self._begin()
            time.sleep(0.05)
        while self._going:
            self._advance(float("inf"))
            time.sleep(0.25)

    def _advance(self, now: float) -> None:
        self._going = [each for each in self._going if now < each.due or self._goes_on(each)]

    def _goes_on(self, going: Going) -> bool:
        """Do the next part of a trouble; return False if there is none, or if it could not be done."""
        try:
            return going.go_on()
        except CutShortError as error:
            print(f"a trouble is cut short: {error}"[:200], flush=True)
            self._fleet.tally["troubles cut short"] += 1
            if going.entry.of_database:
                eventually(self._revived, seconds=60)
            return False

    def _revived(self) -> bool:
        try:
            self._fleet.database.revive()
        except UNMADE:
            return False
        return True

    def _begin(self) -> None:
        self._next = self._next or self._drawn()
        name, entry = self._next, self._table[self._next]
        if entry.of_all and self._going:
            return  # nothing else begins until it can
        self._next = ""
        if entry.of_database and any(each.entry.of_database for each in self._going):
            return
        going = Going(0.0, entry, entry.trouble(self._fleet, random.Random(self._dice.random())))
        if self._goes_on(going):
            self._fleet.tally[name] += 1
            self._going.append(going)

    def _drawn(self) -> str:
        names = list(self._table)
        return self._dice.choices(names, [self._table[each].weight if len(names) > 1 else 1.0 for each in names])[0]


def planned(seed: str, only: Sequence[str]) -> Plan:
    """Return what a seed chooses."""
    dice = random.Random(f"{seed}/plan")
    plan = Plan(
        pooler=dice.choice((0, 0, 0, 1, 5)),
        zero_first=dice.random() < 0.3,
        moving_clock=dice.random() < 0.2,
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
    """Play a scenario of three replicas; return its outcome. `logs`: a folder for what they logged."""
    begun, processor = time.perf_counter(), time.process_time()
    plan = planned(seed, only)
    with database(moving_clock=plan.moving_clock) as (folder, made, small):
        plan = msgspec.structs.replace(plan, small_disk=small)
        fleet = Fleet(folder, made, plan, seed, partial(apply, mutant) if mutant else None)
        try:
            if not eventually(fleet.polled, seconds=START):
                fleet.wrong.append("not every source is polled after the start")
                seconds = 0.0
            fleet.auditor.start()
            fleet.holders.start()
            time.sleep(QUIET)
            Rampage(fleet, seed, only).run(kills, seconds)
            runs = fleet.settle()
            fleet.auditor.stop()
            fleet.holders.stop()
            lossless = not fleet.tally.keys() & LOSING
            wrong = [*fleet.wrong, *dict.fromkeys(fleet.auditor.wrong), *_spent_twice(fleet), *_searched(fleet)]
            wrong += dict.fromkeys(fleet.auditor.fallen) if lossless else ()
            wrong += _cold_starts(fleet) if lossless else ()
            wrong += fleet.auditor.started if lossless and not made.failovers else ()
            fleet.tally["counters of polls that fell after lost commits"] = len(fleet.auditor.fallen)
        finally:
            fleet.close()
            if logs is not None:
                for replica in fleet.replicas:
                    (logs / f"{seed}-{replica.number}.log").write_text(replica.log())
        failovers = made.failovers
    fleet.tally["failovers"] = failovers
    print(f"{seed}: {plan}, take-overs {quantiles(fleet.spending.take_overs)}", flush=True)
    return ScenarioOutcome(
        seed=seed,
        layer="replicas",
        seconds=round(time.perf_counter() - begun, 1),
        processor=round(time.process_time() - processor, 1),
        runs=runs,
        kills=fleet.kills,
        scrapes=fleet.auditor.scrapes,
        troubles=dict(fleet.tally),
        discrepancies=len(wrong),
        findings=wrong[:20],
        take_overs=[round(each, 1) for each in fleet.spending.take_overs],
    )


def _spent_twice(fleet: Fleet) -> Iterator[str]:
    """Yield who used a credential without its lease; one that was frozen may send one more request per source."""
    found = fleet.spending.without_lease(fleet.holders, fleet.names())
    fleet.tally["requests without a lease"] = found.total()
    for (family, replica), number in found.items():
        if number > 3 + sum(fleet.tally[name] for name in STALLING):
            yield f"replica {replica} sent {number} requests to {family} while another had the lease"


def _searched(fleet: Fleet) -> Iterator[str]:
    """Yield customers' data, tracebacks and unexpected endings in the logs."""
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


def _cold_starts(fleet: Fleet) -> Iterator[str]:
    """Yield how often lost commits are reported."""
    rewound = sum(value for series, value in fleet.auditor.values().items() if 'reason="rewound"' in series)
    if rewound:
        yield f"{rewound:g} cold starts because of lost commits, and none was lost"
