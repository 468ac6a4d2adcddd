"""`./chaos` plays scenarios until enough runs were checked and enough processes killed, and prints the results.

It can be stopped at any time, and resumed with the same journal. The exit code is 1 if there was a discrepancy.
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

from tests.chaos.disruptions import DISRUPTIONS
from tests.chaos.mutants import MUTANTS
from tests.chaos.process_chaos import run_process_chaos
from tests.chaos.replicas.disruptions import REPLICA_DISRUPTIONS
from tests.chaos.replicas.mutants import REPLICA_MUTANTS
from tests.chaos.replicas.replica_chaos import run_replica_chaos
from tests.chaos.report import Journal, format_line, summary
from tests.chaos.scenario import ScenarioOptions, ScenarioOutcome, play_scenario

Play = Callable[[str], ScenarioOutcome]
"""Plays the scenario of a seed."""

LONG = {"runs": 1_000_000, "kills": 1000, "size": None, "days": None, "pause": 0.8}
SHORT = {"runs": 700, "kills": 10, "size": 300, "days": 3.0, "pause": 0.3}

PROCESS_KILLS = 200
"""Kills per scenario of real processes."""

REPLICA_KILLS = 60
"""Kills and stops per scenario of replicas."""

MUTANT_SECONDS, MUTANT_SCENARIOS = 45.0, 6
"""Seconds per scenario of a broken replica, and scenarios after which the search for a discrepancy ends."""


def parse_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="./chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the form of the ordinary tests: less than a minute")
    parser.add_argument("--runs", type=int, help="completed runs to check in simulated weeks (1000000)")
    parser.add_argument("--kills", type=int, help="real processes to kill (1000)")
    parser.add_argument("--size", type=int, help="runs per vendor in one scenario (chosen by the seed)")
    parser.add_argument("--days", type=float, help="simulated days of one scenario (7 or 14, chosen by the seed)")
    parser.add_argument("--pause", type=float, help="polls between two disruptions, on average (0.8)")
    parser.add_argument("--seed", default="", help="play only the scenario of this seed")
    parser.add_argument("--first-seed", type=int, default=1, help="number of the first scenario (1)")
    parser.add_argument(
        "--layer",
        choices=("simulated", "real", "both", "replicas"),
        default="both",
        help="what to play: simulated weeks, real processes, both, or replicas (both)",
    )
    parser.add_argument("--processes", type=int, default=1, help="scenarios at once (1)")
    parser.add_argument("--journal", type=Path, help="file of outcomes, to resume from")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[*DISRUPTIONS, *REPLICA_DISRUPTIONS],
        metavar="DISRUPTION",
        help="play only this disruption; can be repeated (all)",
    )
    parser.add_argument("--mutant", choices=sorted({*MUTANTS, *REPLICA_MUTANTS}), help="play with a broken exporter")
    options = parser.parse_args(given)
    for name, value in (SHORT if options.short else LONG).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Play scenarios and print their results. Return the exit code."""
    options = parse_arguments(given)
    journal = Journal(options.journal)
    try:
        if options.seed:
            play_seed(options, journal)
        else:
            play_layers(options, journal)
    except KeyboardInterrupt:
        print("stopped")
    print(summary(journal.outcomes, repeat_command(options)))
    return 1 if any(outcome.discrepancies for outcome in journal.outcomes) else 0


def repeat_command(options: argparse.Namespace) -> str:
    """Return the command that repeats a scenario, without layer and seed."""
    values = {"size": options.size, "days": options.days, "pause": options.pause}
    flags = [f"--{name}={value:g}" for name, value in values.items() if value]
    if options.mutant:
        flags.append(f'--mutant="{options.mutant}"')
    return " ".join(["./chaos", *flags])


def play_seed(options: argparse.Namespace, journal: Journal) -> None:
    """Play the scenario of one seed."""
    play = {"real": process_scenarios, "replicas": replica_scenarios}.get(options.layer, simulated_scenarios)(options)
    add_outcome(journal, play(options.seed))


def play_layers(options: argparse.Namespace, journal: Journal) -> None:
    """Play scenarios of the chosen layers until enough runs were checked and enough processes killed."""
    if options.layer == "replicas" and options.mutant:
        play_until_discrepancy(replica_scenarios(options), options.first_seed, journal)
        return
    first, processes = options.first_seed, options.processes
    if options.layer == "replicas":
        play_layer(journal, Layer("replicas", "p", options.kills, processes), first, replica_scenarios(options))
    if options.layer in ("simulated", "both"):
        play_layer(journal, Layer("simulated", "w", options.runs, processes), first, simulated_scenarios(options))
    if options.layer in ("real", "both"):
        play_layer(journal, Layer("real", "r", options.kills, 1), first, process_scenarios(options))


def simulated_scenarios(options: argparse.Namespace) -> Play:
    """Return the function that plays scenarios of simulated weeks."""
    scenario = ScenarioOptions(runs=options.size, days=options.days, only=tuple(options.only), pause=options.pause)
    if options.mutant:
        scenario = msgspec.structs.replace(scenario, ledger=MUTANTS[options.mutant], max_discrepancies=1)
    return partial(play_scenario, options=scenario)


def process_scenarios(options: argparse.Namespace) -> Play:
    """Return the function that plays scenarios of real processes."""
    return partial(run_process_chaos, kills=min(options.kills, PROCESS_KILLS))


def replica_scenarios(options: argparse.Namespace) -> Play:
    """Return the function that plays scenarios of replicas."""
    kills, only = min(options.kills, REPLICA_KILLS), tuple(options.only)
    if not options.mutant:
        return partial(run_replica_chaos, kills=kills, only=only)
    only = only or tuple(REPLICA_MUTANTS[options.mutant].shown_by)
    return partial(run_replica_chaos, kills=kills, only=only, mutant=options.mutant, seconds=MUTANT_SECONDS)


def play_until_discrepancy(play: Play, first: int, journal: Journal) -> None:
    """Play scenarios of a broken replica until there is a discrepancy."""
    for number in range(first, first + MUTANT_SCENARIOS):
        outcome = play(f"p{number}")
        add_outcome(journal, outcome)
        if outcome.discrepancies:
            return


class Layer(NamedTuple):
    """How much of a layer to play.

    Attributes:
        name: Name of the layer.
        letter: First letter of its seeds.
        target: Number of runs to check, or of processes to kill.
        processes: How many scenarios are played at once.
    """

    name: str
    letter: str
    target: int
    processes: int

    def is_done(self, journal: Journal) -> bool:
        """Return whether enough runs were checked in simulated weeks, or enough processes killed."""
        field = "runs" if self.name == "simulated" else "kills"
        done = sum(getattr(outcome, field) for outcome in journal.outcomes if outcome.layer == self.name)
        return done >= self.target


def play_layer(journal: Journal, layer: Layer, first: int, play: Play) -> None:
    """Play one scenario of a layer after another, or several at once, until the layer is done."""
    already_played = journal.seeds(layer.name)
    seeds = (seed for number in count(first) if (seed := f"{layer.letter}{number}") not in already_played)
    if layer.processes == 1:
        while not layer.is_done(journal):
            add_outcome(journal, play(next(seeds)))
        return
    with ProcessPoolExecutor(layer.processes, mp_context=get_context("spawn")) as pool:
        playing: set[Future[ScenarioOutcome]] = set()
        while playing or not layer.is_done(journal):
            if not layer.is_done(journal):
                playing |= {pool.submit(play, next(seeds)) for _ in range(layer.processes - len(playing))}
            # The last scenarios are awaited too: a scenario with a discrepancy takes longer than others.
            ended, playing = wait(playing, return_when=FIRST_COMPLETED)
            for future in ended:
                add_outcome(journal, future.result())


def add_outcome(journal: Journal, outcome: ScenarioOutcome) -> None:
    """Add an outcome to the journal, and print it."""
    journal.add(outcome)
    print(format_line(outcome), *outcome.findings[:5], sep="\n    ", flush=True)


if __name__ == "__main__":
    # A stopped scenario must unmount its file systems, so SIGTERM raises an exception.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
