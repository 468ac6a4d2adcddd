"""`./chaos`: plays scenarios until enough runs are checked and enough processes killed, then prints the results.

It can be stopped at any time and resumed with the same journal. Exit code 1 if there was any discrepancy.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.chaos.mutants import MUTANTS
from tests.chaos.process_chaos import run_process_chaos
from tests.chaos.replicas.mutants import BROKEN
from tests.chaos.replicas.rampage import run_replica_chaos
from tests.chaos.replicas.troubles import TROUBLES as REPLICAS
from tests.chaos.report import Journal, line, summary
from tests.chaos.scenario import Options, ScenarioOutcome, played
from tests.chaos.troubles import TROUBLES

LONG = {"runs": 1_000_000, "kills": 1000, "size": None, "days": None, "pause": 0.8}
SHORT = {"runs": 700, "kills": 10, "size": 300, "days": 3.0, "pause": 0.3}
REAL = 200
"""Kills per scenario of real processes."""

KILLS_OF_REPLICAS = 60
"""Kills and stops per scenario of replicas."""

BROKEN_SECONDS, BROKEN_SCENARIOS = 45.0, 6
"""How long a scenario of a broken replica lasts, and after how many of them it counts as not found."""


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="./chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the form of the ordinary tests: less than a minute")
    parser.add_argument("--runs", type=int, help="completed runs to check in simulated weeks (1000000)")
    parser.add_argument("--kills", type=int, help="real processes to kill (1000)")
    parser.add_argument("--size", type=int, help="runs per vendor in one scenario (chosen by the seed)")
    parser.add_argument("--days", type=float, help="simulated days of one scenario (7 or 14, chosen by the seed)")
    parser.add_argument("--pause", type=float, help="polls between two troubles, on average (0.8)")
    parser.add_argument("--seed", default="", help="play only the scenario of this seed")
    parser.add_argument("--first-seed", type=int, default=1, help="number of the first scenario (1)")
    parser.add_argument("--layer", choices=("simulated", "real", "both", "replicas"), default="both")
    parser.add_argument("--processes", type=int, default=1, help="scenarios at once (1)")
    parser.add_argument("--journal", type=Path, help="file of outcomes, to resume from")
    parser.add_argument("--only", action="append", default=[], choices=[*TROUBLES, *REPLICAS], metavar="TROUBLE")
    parser.add_argument("--mutant", choices=sorted({*MUTANTS, *BROKEN}), help="play with a broken exporter")
    options = parser.parse_args(given)
    for name, value in (SHORT if options.short else LONG).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def simulated(options: argparse.Namespace) -> Callable[[str], ScenarioOutcome]:
    """Return a function that plays a scenario of simulated weeks."""
    played_with = Options(runs=options.size, days=options.days, only=tuple(options.only), pause=options.pause)
    if options.mutant:
        played_with = msgspec.structs.replace(played_with, ledger=MUTANTS[options.mutant], enough=1)
    return partial(played, options=played_with)


def replicas(options: argparse.Namespace) -> Callable[[str], ScenarioOutcome]:
    """Return a function that plays a scenario of replicas that share a state."""
    kills, only = min(options.kills, KILLS_OF_REPLICAS), tuple(options.only)
    if not options.mutant:
        return partial(run_replica_chaos, kills=kills, only=only)
    only = only or tuple(BROKEN[options.mutant][1])
    return partial(run_replica_chaos, kills=kills, only=only, mutant=options.mutant, seconds=BROKEN_SECONDS)


def main(given: Sequence[str] | None = None) -> int:
    """Play scenarios; return the exit code."""
    options = arguments(given)
    journal = Journal(options.journal)
    try:
        if options.seed:
            one(options, journal)
        else:
            many(options, journal)
    except KeyboardInterrupt:
        print("stopped")
    print(summary(journal.outcomes, _again(options)))
    return 1 if any(outcome.discrepancies for outcome in journal.outcomes) else 0


def _again(options: argparse.Namespace) -> str:
    """Return the command that repeats a scenario, without its seed."""
    played_with = {"size": options.size, "days": options.days, "pause": options.pause}
    broken = [f'--mutant="{options.mutant}"'] if options.mutant else []
    return " ".join(["./chaos", *(f"--{name}={value:g}" for name, value in played_with.items() if value), *broken])


def one(options: argparse.Namespace, journal: Journal) -> None:
    """Play the scenario of a seed."""
    match options.layer:
        case "real":
            note(journal, run_process_chaos(options.seed, min(options.kills, REAL)))
        case "replicas":
            note(journal, replicas(options)(options.seed))
        case _:
            note(journal, simulated(options)(options.seed))


def many(options: argparse.Namespace, journal: Journal) -> None:
    """Play scenarios of one layer or two until there are enough."""
    if options.layer == "replicas" and options.mutant:
        until_found(replicas(options), options.first_seed, journal)
        return
    if options.layer == "replicas":
        enough(journal, Layer("replicas", "p", options.kills, options.processes), options.first_seed, replicas(options))
        return
    if options.layer != "real":
        enough(
            journal, Layer("simulated", "w", options.runs, options.processes), options.first_seed, simulated(options)
        )
    if options.layer != "simulated":
        kill = partial(run_process_chaos, kills=min(options.kills, REAL))
        enough(journal, Layer("real", "r", options.kills, 1), options.first_seed, kill)


def until_found(play: Callable[[str], ScenarioOutcome], first: int, journal: Journal) -> None:
    """Play scenarios of a broken replica until there is a discrepancy."""
    for number in range(first, first + BROKEN_SCENARIOS):
        outcome = play(f"p{number}")
        note(journal, outcome)
        if outcome.discrepancies:
            return


class Layer(NamedTuple):
    """A layer: the letter of its seeds, the wanted number of runs or kills, and how many scenarios run at once."""

    name: str
    letter: str
    wanted: int
    processes: int

    def done(self, journal: Journal) -> int:
        """Return the completed runs checked in simulated weeks, or the real processes killed."""
        field = "runs" if self.name == "simulated" else "kills"
        return sum(getattr(outcome, field) for outcome in journal.outcomes if outcome.layer == self.name)


def enough(journal: Journal, layer: Layer, first: int, play: Callable[[str], ScenarioOutcome]) -> None:
    """Play one seed after another, or several at once, until enough runs are checked or processes killed."""
    played_already = journal.seeds(layer.name)
    seeds = (seed for number in count(first) if (seed := f"{layer.letter}{number}") not in played_already)
    if layer.processes == 1:
        while layer.done(journal) < layer.wanted:
            note(journal, play(next(seeds)))
        return
    with ProcessPoolExecutor(layer.processes, mp_context=get_context("spawn")) as pool:
        going: set[Future[ScenarioOutcome]] = set()
        while going or layer.done(journal) < layer.wanted:
            if layer.done(journal) < layer.wanted:
                going |= {pool.submit(play, next(seeds)) for _ in range(layer.processes - len(going))}
            # The last ones are awaited too: a scenario with a discrepancy takes longer than others.
            ended, going = wait(going, return_when=FIRST_COMPLETED)
            for future in ended:
                note(journal, future.result())


def note(journal: Journal, outcome: ScenarioOutcome) -> None:
    """Record and print an outcome."""
    journal.add(outcome)
    print(line(outcome), *outcome.findings[:5], sep="\n    ", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its own file systems must be unmounted
    sys.exit(main())
