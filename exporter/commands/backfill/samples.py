"""Stores samples with timestamps on disk, and writes them as OpenMetrics, grouped by series.

OpenMetrics requires the samples of a series together and in order, but the replay computes them minute by minute. So
changes are stored in a temporary table first. Unchanged values are repeated when they are written.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import msgspec

from exporter.exposition.textformat import header, labels
from exporter.metrics.families import FAMILIES
from exporter.metrics.family import Family, Kind

STEP = 60.0
"""Seconds before a change at which the old value is repeated, to date the change correctly."""

REPEAT = 240.0
"""Seconds after which an unchanged value is repeated: less than the 5 minutes of Prometheus' lookback."""

REPEAT_HISTOGRAM = 1800.0
"""The same for histograms. They are most of the series, and are queried over ranges."""

PLACES = {family.name: place for place, family in enumerate(FAMILIES)}


class Unit(msgspec.Struct, frozen=True):
    """A series, or all series of one histogram. `first`: name and labels of the first series."""

    family: int
    first: bytes

    @classmethod
    def of(cls, family: Family, lines: bytes) -> "Unit":
        """Return the unit of these lines."""
        return cls(PLACES[family.name], lines.partition(b"\n")[0].rpartition(b" ")[0])

    @property
    def counts(self) -> bool:
        """Return whether it is a counter or a histogram, which start at 0."""
        return FAMILIES[self.family].kind is not Kind.GAUGE


class Samples:
    """Collects samples to write. `more`: additional labels of all series."""

    def __init__(self, more: Mapping[str, str]) -> None:
        self._more = labels(tuple(more), tuple(more.values()))
        self._numbers: dict[Unit, int] = {}
        self._ends: dict[int, float] = {}
        self._db = sqlite3.connect("", isolation_level=None)  # on disk, but not visible to other processes
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE changes (family INTEGER, unit INTEGER, timestamp REAL, lines BLOB)")

    def close(self) -> None:
        """Drop the samples."""
        self._db.close()

    def prefix(self, own: str) -> str:
        """Return a job's labels with the additional ones."""
        return f"{own},{self._more}" if self._more else own

    def note(self, unit: Unit, timestamp: float, lines: bytes, end: float) -> None:
        """Record the lines of a unit from a time on. `end`: time of its last sample."""
        number = self._numbers.setdefault(unit, len(self._numbers))
        self._ends[number] = end
        self._db.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", (unit.family, number, timestamp, lines))

    def gone(self, unit: Unit, timestamp: float) -> None:
        """Record that a unit has no lines from a time on."""
        self._db.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", (unit.family, self._numbers[unit], timestamp, b""))

    def write(self, path: Path) -> tuple[int, int]:
        """Write all samples to a file, which appears when it is complete. Return the numbers of samples and bytes."""
        part = path.with_name(path.name + ".part")
        try:
            with part.open("xb") as file:
                count = sum(self._families(file))
                file.write(b"# EOF\n")
                size = file.tell()
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        return count, size

    def _families(self, file: BinaryIO) -> Iterator[int]:
        rows = self._db.execute(
            "SELECT family, unit, timestamp, lines FROM changes ORDER BY family, unit, timestamp, rowid"
        )
        for place, of_family in groupby(rows, key=lambda row: row[0]):
            family = FAMILIES[place]
            file.write(header(family, openmetrics=True))
            repeat = REPEAT_HISTOGRAM if family.kind is Kind.HISTOGRAM else REPEAT
            for number, of_unit in groupby(of_family, key=lambda row: row[1]):
                changes = [(timestamp, lines) for _, _, timestamp, lines in of_unit]
                for timestamp, lines in repeated(changes, self._ends[number], repeat):
                    file.write(stamped(lines, timestamp))
                    yield lines.count(b"\n")


def repeated(changes: Iterable[tuple[float, bytes]], end: float, repeat: float) -> Iterator[tuple[float, bytes]]:
    """Yield changes, and repeat unchanged values, up to and including `end`. Per time, the last change is used."""
    latest = dict(changes)
    timestamps = sorted(latest)
    for timestamp, following in zip(timestamps, [*timestamps[1:], None], strict=True):
        if not latest[timestamp]:
            continue
        yield timestamp, latest[timestamp]
        last = end if following is None else following - STEP
        moment = timestamp + repeat
        while moment < last:
            yield moment, latest[timestamp]
            moment += repeat
        if last > timestamp:
            yield last, latest[timestamp]


def stamped(lines: bytes, timestamp: float) -> bytes:
    """Return lines with a timestamp in seconds."""
    stamp = f" {timestamp:.3f}".removesuffix(".000").encode()
    return lines.replace(b"\n", stamp + b"\n")
