"""The outcomes of all scenarios: one line each in a journal, so that a long run can be resumed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from tests.chaos.scenario import ScenarioOutcome

LAYERS = {"simulated": "simulated weeks", "real": "real processes", "replicas": "replicas"}
"""The layers, and the heads of their columns."""


class Journal:
    """The file of outcomes; without a path they are only in memory."""

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
        """Return the seeds that have been played."""
        return frozenset(outcome.seed for outcome in self.outcomes if outcome.layer == layer)


def line(outcome: ScenarioOutcome) -> str:
    """Return one scenario in one line."""
    return (
        f"{outcome.layer:9} {outcome.seed:12} {outcome.seconds:7.1f} s ({outcome.processor:.1f} s of CPU time)  "
        f"{outcome.runs:7} runs checked  "
        f"{outcome.kills:4} kills  {outcome.discrepancies} discrepancies"
    )


def summary(outcomes: Sequence[ScenarioOutcome], again: str) -> str:
    """Return the results as Markdown for docs/reliability.md. `again`: the command without the seed."""
    return "\n".join([*_totals(outcomes), "", *_troubles(outcomes), "", *_wrong(outcomes, again)])


def _totals(outcomes: Sequence[ScenarioOutcome]) -> Iterator[str]:
    found = {layer: [each for each in outcomes if each.layer == layer] for layer in LAYERS}
    shown = [layer for layer in LAYERS if found[layer] or layer != "replicas"]
    yield "| | " + " | ".join(LAYERS[layer] for layer in shown) + " | together |"
    yield "|---" * (len(shown) + 2) + "|"
    columns: list[Sequence[ScenarioOutcome]] = [*(found[layer] for layer in shown), outcomes]
    rows: dict[str, Sequence[float]] = {
        "scenarios": [len(column) for column in columns],
        "completed runs checked": _sums(columns, "runs"),
        "kills -9": _sums(columns, "kills"),
        "polls": _sums(columns, "polls"),
        "scrapes checked": _sums(columns, "scrapes"),
        "comparisons of all gauges of a source": _sums(columns, "gauges"),
        "simulated days": _sums(columns, "days"),
        "seconds": _sums(columns, "seconds"),
        "seconds of CPU time (simulated weeks)": _sums(columns, "processor"),
        "**discrepancies**": _sums(columns, "discrepancies"),
    }
    for name, values in rows.items():
        yield f"| {name} | " + " | ".join(f"{value:,.0f}" for value in values) + " |"


def _sums(columns: Iterable[Sequence[ScenarioOutcome]], field: str) -> list[float]:
    return [sum(getattr(each, field) for each in column) for column in columns]


def _troubles(outcomes: Sequence[ScenarioOutcome]) -> Iterator[str]:
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total.update(outcome.troubles)
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(total.items()))
    yield f"Disruptions: {total.total():,}: {shown}."
    take_overs = [seconds for outcome in outcomes for seconds in outcome.take_overs]
    if take_overs:
        yield f"Seconds from the death of an owner to the next poll: {quantiles(take_overs)}."


def quantiles(numbers: Sequence[float]) -> str:
    """Return how numbers are distributed, in words."""
    if not numbers:
        return "none"
    ordered = sorted(numbers)
    p50, p95 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95))
    return f"{len(ordered)}, p50 {p50:.1f}, p95 {p95:.1f}, longest {ordered[-1]:.1f}"


def _ranges(seeds: Iterable[str]) -> Iterator[str]:
    """Yield seeds in order, consecutive ones as a range."""
    begin, end = "", ""
    for seed in [*sorted(seeds, key=_parts), ""]:
        letter, number = _parts(seed)
        if end and (letter, number) == (_parts(end)[0], _parts(end)[1] + 1):
            end = seed
            continue
        if end:
            yield begin if begin == end else f"{begin} to {end}"
        begin = end = seed


def _parts(seed: str) -> tuple[str, int]:
    """Return a seed's letter and its number; 0 if it has none."""
    letter = seed.rstrip("0123456789")
    return letter, int(seed[len(letter) :] or 0)


def _wrong(outcomes: Sequence[ScenarioOutcome], again: str) -> Iterator[str]:
    seeds = [each.seed for each in outcomes]
    yield f"Seeds: {', '.join(_ranges(seeds))}." if seeds else "No scenario was played."
    for outcome in outcomes:
        for finding in outcome.findings:
            yield f"- {outcome.seed}: {finding}"
        if outcome.discrepancies:
            yield f"  Repeat it: `{again} --layer={outcome.layer} --seed={outcome.seed}`"
