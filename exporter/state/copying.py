"""Copies a state between files and databases in one transaction. The copy is compared before the commit."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib import import_module
from itertools import count, islice
from pathlib import Path

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.records import Counted, JobState
from exporter.errors import StateError
from exporter.state.files import JOURNALS, make_private
from exporter.state.location import SCHEMES, problem_of_url
from exporter.state.lock import Lock, RefusedStateError
from exporter.state.opening import problem_of_state
from exporter.state.sql import LoadedState, SqlStore
from exporter.state.store import Store

BATCH = 5000
"""Number of runs per write."""


class Totals(msgspec.Struct, kw_only=True):
    """Totals of one source in a state.

    `counted`: the sum over all series, by counter; for a histogram by `FAMILY_count` and `FAMILY_sum`.
    """

    jobs: int = 0
    runs: int = 0
    active: int = 0
    counted: dict[str, float] = {}

    def add(self, job: JobState) -> None:
        """Add a job's record."""
        self.jobs += 1
        self.add_counters(job)
        for family, histograms in job.distributions.items():
            self._add(f"{family}_count", (sum(each.counts) for each in histograms.values()))
            self._add(f"{family}_sum", (each.sum for each in histograms.values()))

    def add_counters(self, record: Counted) -> None:
        """Add a record's counters."""
        for family, series in record.counts.items():
            self._add(family, (each.value for each in series.values()))

    def _add(self, family: str, values: Iterator[float]) -> None:
        self.counted[family] = math.fsum((self.counted.get(family, 0.0), *values))


def copy_state(source: str, target: str) -> dict[str, Totals]:
    """Copy a state from a path or URL to another. Return the totals of each source.

    Raises StateError and copies nothing if a state is in use, the target is not empty, or the copy differs.
    """
    if source == target or _is_one_file(source, target):
        raise StateError("--from and --to name the same state")
    with _opened(source) as old, _created(target) as new:
        try:
            return _copied(old, new)
        except (ValueError, TypeError, OverflowError) as error:  # SQLite stores a value of any type in any column
            raise StateError(
                f"{old.name}: a damaged row cannot be copied ({type(error).__name__}); nothing was copied"
            ) from error


def _is_url(place: str) -> bool:
    return place.startswith(SCHEMES)


def _is_one_file(*places: str) -> bool:
    return not any(map(_is_url, places)) and len({Path(place).resolve() for place in places}) == 1


@contextmanager
def _opened(place: str) -> Iterator[SqlStore]:
    """Open a state to read it while no daemon can write it."""
    if _is_url(place):
        with _database(place, empty=False) as store:
            yield store
        return
    path = Path(place).absolute()
    if not path.is_file():
        raise StateError(f"{path}: there is no state")
    with _locked(path), closing(Store(path, read_only=True)) as store:
        yield store


@contextmanager
def _created(place: str) -> Iterator[SqlStore]:
    """Open an empty state to write it in one transaction while no daemon can use it."""
    if _is_url(place):
        with _database(place, empty=True) as store:
            yield store
        return
    path = Path(place).absolute()
    _require_no_content(path)
    # A daemon must not start with an incomplete copy, so only a complete one gets the name. If this process is killed
    # before, only the empty file that `Lock` creates has the name.
    unfinished = path.with_name(path.name + ".unfinished")
    with _locked(path):
        _require_no_content(path)  # another copy may have written it meanwhile
        _remove(unfinished)
        try:
            make_private(unfinished)
            with closing(Store(unfinished)) as store, store.transaction():
                yield store
            unfinished.replace(path)
        except BaseException:
            _remove(unfinished)
            _remove(path)
            raise


def _require_no_content(path: Path) -> None:
    if path.exists() and not (path.is_file() and path.stat().st_size == 0):
        raise StateError(f"{path}: exists; name another file, or move this one away")


def _remove(path: Path) -> None:
    for ending in ("", *JOURNALS):
        with suppress(OSError):
            path.with_name(path.name + ending).unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if reason := problem_of_state(path):
        raise RefusedStateError(reason)
    lock = Lock(path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _database(url: str, *, empty: bool) -> Iterator[SqlStore]:
    if reason := problem_of_url(url):
        raise StateError(f"the URL {reason}")
    with import_module("exporter.state.postgres").opened_exclusively(url, empty=empty) as store:
        yield store


def _copied(old: SqlStore, new: SqlStore) -> dict[str, Totals]:
    load = SqlStore.load  # PostgresStore.load uses a new transaction, which would not see the one in progress
    loaded = load(old)
    if not loaded.sources:
        raise StateError(f"{old.name}: the state is empty")
    for source in loaded.sources:
        new.put_source(source)
    keys = _new_keys(loaded, new)
    new.put_jobs(msgspec.structs.replace(job, key=keys[job.key]) for job in loaded.jobs)
    names = {key: name for name, key in old.source_keys().items()}
    rows = ((names[key], row) for key, row in old.every_run())
    while batch := list(islice(rows, BATCH)):
        for name in dict.fromkeys(name for name, _ in batch):
            of_source = (row for each, row in batch if each == name)
            new.put_runs(name, [msgspec.structs.replace(row, job=keys[row.job]) for row in of_source])
    new.put_exporter(loaded.exporter)
    before, after = _totals(loaded, old), _totals(load(new), new)
    if before != after:
        different = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise StateError(f"{new.name}: the copy differs in {', '.join(different)}; nothing was copied")
    return after


def _new_keys(loaded: LoadedState, new: SqlStore) -> dict[int, int]:
    # In a database each source has its own range of keys. In a file all sources share one range.
    shared = count(1)
    own = {name: count(first) for name, first in new.first_keys().items()}
    return {job.key: next(own.get(job.source, shared)) for job in loaded.jobs}


def _totals(loaded: LoadedState, store: SqlStore) -> dict[str, Totals]:
    active = Counter(name for name, row in loaded.open_runs if row.mark is CountState.OPEN)
    totals = {
        source.name: Totals(runs=sum(store.count_runs(source.name).values()), active=active[source.name])
        for source in loaded.sources
    }
    for job in loaded.jobs:
        totals[job.source].add(job)
    for source in loaded.sources:
        totals[source.name].add_counters(source)
    return totals
