"""The journal of outcomes, with which a long run can be resumed, and the summary of all outcomes."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from tests.chaos.scenario import ScenarioOutcome

LAYERS = {"simulated": "simulated weeks", "real": "real processes", "replicas": "replicas"}
"""Titles of the layers in the summary."""


class Journal:
    """All outcomes. They are kept in a file, one per line; without a path only in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.outcomes: list[ScenarioOutcome] = []
        if path is not None and path.exists():
            lines = path.read_bytes().splitlines()
            self.outcomes = [msgspec.json.decode(line, type=ScenarioOutcome) for line in lines if line]

    def add(self, outcome: ScenarioOutcome) -> None:
        """Add an outcome."""
        self.outcomes.append(outcome)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(outcome) + b"\n")

    def seeds(self, layer: str) -> frozenset[str]:
        """Return the seeds of a layer that have been played."""
        return frozenset(outcome.seed for outcome in self.outcomes if outcome.layer == layer)


def format_line(outcome: ScenarioOutcome) -> str:
    """Return the main figures of an outcome in one line."""
    return (
        f"{outcome.layer:9} {outcome.seed:12} {outcome.seconds:7.1f} s ({outcome.cpu_seconds:.1f} s of CPU time)  "
        f"{outcome.runs:7} runs checked  "
        f"{outcome.kills:4} kills  {outcome.discrepancies} discrepancies"
    )


def summary(outcomes: Sequence[ScenarioOutcome], command: str) -> str:
    """Return all results as Markdown. `command`: the command that repeats a scenario, without layer and seed."""
    return "\n".join([*_totals(outcomes), "", *_disruptions(outcomes), "", *_discrepancies(outcomes, command)])


def _totals(outcomes: Sequence[ScenarioOutcome]) -> Iterator[str]:
    by_layer = {layer: [each for each in outcomes if each.layer == layer] for layer in LAYERS}
    shown = [layer for layer in LAYERS if by_layer[layer] or layer != "replicas"]
    yield "| | " + " | ".join(LAYERS[layer] for layer in shown) + " | together |"
    yield "|---" * (len(shown) + 2) + "|"
    columns: list[Sequence[ScenarioOutcome]] = [*(by_layer[layer] for layer in shown), outcomes]
    rows: dict[str, Sequence[float]] = {
        "scenarios": [len(column) for column in columns],
        "completed runs checked": _sums(columns, "runs"),
        "kills -9": _sums(columns, "kills"),
        "polls": _sums(columns, "polls"),
        "scrapes checked": _sums(columns, "scrapes"),
        "comparisons of all gauges of a source": _sums(columns, "gauges"),
        "simulated days": _sums(columns, "days"),
        "seconds": _sums(columns, "seconds"),
        "seconds of CPU time (simulated weeks)": _sums(columns, "cpu_seconds"),
        "**discrepancies**": _sums(columns, "discrepancies"),
    }
    for name, values in rows.items():
        yield f"| {name} | " + " | ".join(f"{value:,.0f}" for value in values) + " |"


def _sums(columns: Iterable[Sequence[ScenarioOutcome]], field: str) -> list[float]:
    return [sum(getattr(each, field) for each in column) for column in columns]


def _disruptions(outcomes: Sequence[ScenarioOutcome]) -> Iterator[str]:
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.disruptions)
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(total.items()))
    yield f"Disruptions: {total.total():,}: {shown}."
    take_overs = [seconds for outcome in outcomes for seconds in outcome.take_overs]
    if take_overs:
        yield f"Seconds from the kill of an owner to the next request with its credential: {quantiles(take_overs)}."


def quantiles(numbers: Sequence[float]) -> str:
    """Return count, median, 95th percentile and maximum of numbers as text."""
    if not numbers:
        return "none"
    ordered = sorted(numbers)
    p50, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return f"{len(ordered)}, p50 {p50:.1f}, p95 {p95:.1f}, longest {ordered[-1]:.1f}"


def _ranges(seeds: Iterable[str]) -> Iterator[str]:
    """Yield seeds in order, and consecutive seeds as a range."""
    first, last = "", ""
    for seed in [*sorted(seeds, key=_split), ""]:
        letter, number = _split(seed)
        if last and (letter, number) == (_split(last)[0], _split(last)[1] + 1):
            last = seed
            continue
        if last:
            yield first if first == last else f"{first} to {last}"
        first = last = seed


def _split(seed: str) -> tuple[str, int]:
    """Return the letters and the number of a seed; 0 if it has no number."""
    letter = seed.rstrip("0123456789")
    return letter, int(seed[len(letter) :] or 0)


def _discrepancies(outcomes: Sequence[ScenarioOutcome], command: str) -> Iterator[str]:
    seeds = [each.seed for each in outcomes]
    yield f"Seeds: {', '.join(_ranges(seeds))}." if seeds else "No scenario was played."
    for outcome in outcomes:
        for finding in outcome.findings:
            yield f"- {outcome.seed}: {finding}"
        if outcome.discrepancies:
            yield f"  Repeat it: `{command} --layer={outcome.layer} --seed={outcome.seed}`"
