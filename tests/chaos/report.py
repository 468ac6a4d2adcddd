"""What all scenarios have come to: kept in a journal, a line each, so that a long form can be taken up again."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from tests.chaos.scenario import Decision


class Journal:
    """The file of verdicts; without a path they are only remembered."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.verdicts: list[Decision] = []
        if path is not None and path.exists():
            lines = path.read_bytes().splitlines()
            self.verdicts = [msgspec.json.decode(line, type=Decision) for line in lines if line]

    def add(self, verdict: Decision) -> None:
        """Remembers a verdict."""
        self.verdicts.append(verdict)
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(verdict) + b"\n")

    def seeds(self, layer: str) -> frozenset[str]:
        """The seeds that have been played."""
        return frozenset(verdict.seed for verdict in self.verdicts if verdict.layer == layer)


def line(verdict: Decision) -> str:
    """One scenario in one line."""
    return (
        f"{verdict.layer:9} {verdict.seed:12} {verdict.seconds:7.1f} s ({verdict.processor:.1f} s of processor time)  "
        f"{verdict.runs:7} runs checked  "
        f"{verdict.kills:4} kills  {verdict.discrepancies} discrepancies"
    )


def summary(verdicts: Sequence[Decision], again: str) -> str:
    """All of it as Markdown, to be pasted into docs/reliability.md. `again`: the command without the seed."""
    return "\n".join([*_totals(verdicts), "", *_troubles(verdicts), "", *_wrong(verdicts, again)])


def _totals(verdicts: Sequence[Decision]) -> Iterator[str]:
    yield "| | simulated weeks | real processes | together |"
    yield "|---|---|---|---|"
    layers = [[each for each in verdicts if each.layer == layer] for layer in ("simulated", "real")]
    columns: list[Sequence[Decision]] = [*layers, verdicts]
    rows = {
        "scenarios": [len(column) for column in columns],
        "endings checked": _sums(columns, "runs"),
        "kills -9": _sums(columns, "kills"),
        "polls": _sums(columns, "polls"),
        "scrapes checked": _sums(columns, "scrapes"),
        "comparisons of all gauges of a source": _sums(columns, "gauges"),
        "simulated days": _sums(columns, "days"),
        "seconds": _sums(columns, "seconds"),
        "seconds of processor time (simulated weeks)": _sums(columns, "processor"),
        "**discrepancies**": _sums(columns, "discrepancies"),
    }
    for name, values in rows.items():
        yield f"| {name} | " + " | ".join(f"{value:,.0f}" for value in values) + " |"


def _sums(columns: Iterable[Sequence[Decision]], field: str) -> list[float]:
    return [sum(getattr(each, field) for each in column) for column in columns]


def _troubles(verdicts: Sequence[Decision]) -> Iterator[str]:
    total: Counter[str] = Counter()
    for verdict in verdicts:
        total.update(verdict.troubles)
    told = ", ".join(f"{name} {count:,}" for name, count in sorted(total.items()))
    yield f"Faults injected: {total.total():,}: {told}."


def _ranges(seeds: Iterable[str]) -> Iterator[str]:
    """Seeds in order, those that follow one another made one."""
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
    """A seed's letter and its number; 0 if it has none."""
    letter = seed.rstrip("0123456789")
    return letter, int(seed[len(letter) :] or 0)


def _wrong(verdicts: Sequence[Decision], again: str) -> Iterator[str]:
    seeds = [each.seed for each in verdicts]
    yield f"Seeds: {', '.join(_ranges(seeds))}." if seeds else "No scenario was played."
    for verdict in verdicts:
        for told in verdict.told:
            yield f"- {verdict.seed}: {told}"
        if verdict.discrepancies:
            yield f"  Repeat it: `{again} --layer={verdict.layer} --seed={verdict.seed}`"
