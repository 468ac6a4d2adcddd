"""`./chaos`: plays scenarios until enough runs are checked and enough processes killed, then prints what came of it.

It can be stopped at any time and taken up again with the same journal. Exit code 1 if there was any discrepancy.
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
from tests.chaos.report import Journal, line, summary
from tests.chaos.scenario import Decision, Options, played
from tests.chaos.troubles import TROUBLES

LONG = {"runs": 1_000_000, "kills": 1000, "size": None, "days": None, "pause": 0.8}
SHORT = {"runs": 700, "kills": 10, "size": 300, "days": 3.0, "pause": 0.3}
REAL = 200
"""Kills of one scenario of real processes."""


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="./chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the form of the usual tests: less than a minute")
    parser.add_argument("--runs", type=int, help="endings to be checked in simulated weeks (1000000)")
    parser.add_argument("--kills", type=int, help="real processes to be killed (1000)")
    parser.add_argument("--size", type=int, help="runs of each vendor in one scenario (as the seed has it)")
    parser.add_argument("--days", type=float, help="simulated days of one scenario (7 or 14, as the seed has it)")
    parser.add_argument("--pause", type=float, help="polls between two troubles, on average (0.8)")
    parser.add_argument("--seed", default="", help="play only the scenario of this seed")
    parser.add_argument("--first-seed", type=int, default=1, help="number of the first scenario (1)")
    parser.add_argument("--layer", choices=("simulated", "real", "both"), default="both")
    parser.add_argument("--processes", type=int, default=1, help="scenarios played at once (1)")
    parser.add_argument("--journal", type=Path, help="file in which verdicts are kept, to be taken up again")
    parser.add_argument("--only", action="append", default=[], choices=list(TROUBLES), metavar="TROUBLE")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="show the auditor a broken exporter")
    told = parser.parse_args(given)
    for name, value in (SHORT if told.short else LONG).items():
        if getattr(told, name) is None:
            setattr(told, name, value)
    return told


def simulated(told: argparse.Namespace) -> Callable[[str], Decision]:
    """Plays a scenario of simulated weeks."""
    options = Options(runs=told.size, days=told.days, only=tuple(told.only), pause=told.pause)
    if told.mutant:
        options = msgspec.structs.replace(options, ledger=MUTANTS[told.mutant], enough=1)
    return partial(played, options=options)


def main(given: Sequence[str] | None = None) -> int:
    """Plays; gives the exit code."""
    told = arguments(given)
    journal = Journal(told.journal)
    try:
        if told.seed:
            one(told, journal)
        else:
            many(told, journal)
    except KeyboardInterrupt:
        print("stopped")
    print(summary(journal.verdicts, _again(told)))
    return 1 if any(verdict.discrepancies for verdict in journal.verdicts) else 0


def _again(told: argparse.Namespace) -> str:
    """The command that repeats a scenario, but for its seed."""
    options = {"size": told.size, "days": told.days, "pause": told.pause}
    return " ".join(["./chaos", *(f"--{name}={value:g}" for name, value in options.items() if value)])


def one(told: argparse.Namespace, journal: Journal) -> None:
    """The scenario of a seed."""
    real = told.layer == "real"
    note(journal, run_process_chaos(told.seed, min(told.kills, REAL)) if real else simulated(told)(told.seed))


def many(told: argparse.Namespace, journal: Journal) -> None:
    """Scenarios of both layers until there are enough."""
    if told.layer != "real":
        enough(journal, Layer("simulated", "w", told.runs, told.processes), told.first_seed, simulated(told))
    if told.layer != "simulated":
        kill = partial(run_process_chaos, kills=min(told.kills, REAL))
        enough(journal, Layer("real", "r", told.kills, 1), told.first_seed, kill)


class Layer(NamedTuple):
    """A layer: the letter of its seeds, how much is wanted of it, and how many scenarios are played at once."""

    name: str
    letter: str
    wanted: int
    processes: int

    def done(self, journal: Journal) -> int:
        """Endings checked in simulated weeks, or real processes killed."""
        field = "runs" if self.name == "simulated" else "kills"
        return sum(getattr(verdict, field) for verdict in journal.verdicts if verdict.layer == self.name)


def enough(journal: Journal, layer: Layer, first: int, play: Callable[[str], Decision]) -> None:
    """Plays one seed after another, some at once, until so many runs are checked, or so many processes killed."""
    played_already = journal.seeds(layer.name)
    seeds = (seed for number in count(first) if (seed := f"{layer.letter}{number}") not in played_already)
    if layer.processes == 1:
        while layer.done(journal) < layer.wanted:
            note(journal, play(next(seeds)))
        return
    with ProcessPoolExecutor(layer.processes, mp_context=get_context("spawn")) as pool:
        going: set[Future[Decision]] = set()
        while layer.done(journal) < layer.wanted:
            going |= {pool.submit(play, next(seeds)) for _ in range(layer.processes - len(going))}
            ended, going = wait(going, return_when=FIRST_COMPLETED)
            for future in ended:
                note(journal, future.result())


def note(journal: Journal, verdict: Decision) -> None:
    """Keeps and tells a verdict."""
    journal.add(verdict)
    print(line(verdict), *verdict.told[:5], sep="\n    ", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # file systems of its own are to be unmounted
    sys.exit(main())
