"""Stores samples with timestamps on disk, and writes them as OpenMetrics, grouped by series.

OpenMetrics requires that the samples of a series are consecutive and in order, but the replay computes them minute by
minute. So changes are stored in a temporary table first. Unchanged values are repeated when they are written.
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

REPEAT_BEFORE_CHANGE = 60.0
"""Seconds before a change at which the old value is repeated. Otherwise rates would spread the change over time."""

REPEAT = 240.0
"""Seconds after which an unchanged value is repeated: less than Prometheus' lookback of 5 minutes."""

REPEAT_HISTOGRAM = 1800.0
"""The same for histograms. They are most of the series, and are queried over ranges, so this is longer."""

FAMILY_INDEXES = {family.name: index for index, family in enumerate(FAMILIES)}


class SeriesGroup(msgspec.Struct, frozen=True):
    """A series, or all series of one histogram. `first`: name and labels of its first line."""

    family: int
    first: bytes

    @classmethod
    def of(cls, family: Family, lines: bytes) -> "SeriesGroup":
        """Return the group of these lines."""
        return cls(FAMILY_INDEXES[family.name], lines.partition(b"\n")[0].rpartition(b" ")[0])

    @property
    def starts_at_zero(self) -> bool:
        """Return whether the values start at 0, as those of counters and histograms do."""
        return FAMILIES[self.family].kind is not Kind.GAUGE


class Samples:
    """Collects samples, then writes them. `extra_labels`: additional labels of all series."""

    def __init__(self, extra_labels: Mapping[str, str]) -> None:
        self._extra_labels = labels(tuple(extra_labels), tuple(extra_labels.values()))
        self._group_numbers: dict[SeriesGroup, int] = {}
        self._last_timestamps: dict[int, float] = {}
        self._db = sqlite3.connect("", isolation_level=None)  # on disk, but not visible to other processes
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("CREATE TABLE changes (family INTEGER, series INTEGER, timestamp REAL, lines BLOB)")

    def close(self) -> None:
        """Delete the samples."""
        self._db.close()

    def prefix(self, job_labels: str) -> str:
        """Return a job's labels with the additional ones."""
        return f"{job_labels},{self._extra_labels}" if self._extra_labels else job_labels

    def add(self, group: SeriesGroup, timestamp: float, lines: bytes, end: float) -> None:
        """Add the lines that a group has from `timestamp` on. `end`: time of the group's last sample."""
        group_number = self._group_numbers.setdefault(group, len(self._group_numbers))
        self._last_timestamps[group_number] = end
        self._db.execute("INSERT INTO changes VALUES (?, ?, ?, ?)", (group.family, group_number, timestamp, lines))

    def add_absence(self, group: SeriesGroup, timestamp: float) -> None:
        """Record that a group has no lines from `timestamp` on."""
        self._db.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?)", (group.family, self._group_numbers[group], timestamp, b"")
        )

    def write(self, path: Path) -> tuple[int, int]:
        """Write all samples to a file. It appears when it is complete. Return the numbers of samples and bytes."""
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
            "SELECT family, series, timestamp, lines FROM changes ORDER BY family, series, timestamp, rowid"
        )
        for index, rows_of_family in groupby(rows, key=lambda row: row[0]):
            family = FAMILIES[index]
            file.write(header(family, openmetrics=True))
            repeat = REPEAT_HISTOGRAM if family.kind is Kind.HISTOGRAM else REPEAT
            for group_number, rows_of_group in groupby(rows_of_family, key=lambda row: row[1]):
                changes = [(timestamp, lines) for _, _, timestamp, lines in rows_of_group]
                for timestamp, lines in repeated(changes, self._last_timestamps[group_number], repeat):
                    file.write(stamped(lines, timestamp))
                    yield lines.count(b"\n")


def repeated(changes: Iterable[tuple[float, bytes]], end: float, repeat: float) -> Iterator[tuple[float, bytes]]:
    """Yield changes and repeated values until `end`. Of several changes at the same time, the last one counts."""
    latest = dict(changes)
    timestamps = sorted(latest)
    for timestamp, following in zip(timestamps, [*timestamps[1:], None], strict=True):
        if not latest[timestamp]:
            continue
        yield timestamp, latest[timestamp]
        last = end if following is None else following - REPEAT_BEFORE_CHANGE
        repetition = timestamp + repeat
        while repetition < last:
            yield repetition, latest[timestamp]
            repetition += repeat
        if last > timestamp:
            yield last, latest[timestamp]


def stamped(lines: bytes, timestamp: float) -> bytes:
    """Return lines with a timestamp in seconds."""
    stamp = f" {timestamp:.3f}".removesuffix(".000").encode()
    return lines.replace(b"\n", stamp + b"\n")
