"""Zero-first: keeps the pending series, and decides when their values can be exposed."""

import threading
from collections.abc import Callable, Collection, Iterable

import msgspec

from exporter.counting.names import RUN_DURATION, RUNS

Owner = tuple[str] | tuple[str, int] | tuple[str, str]
"""Owner of a series: ("job", key), ("source", name) or ("exporter",).

("unobserved", name) stands for a source's pending unobserved seconds: they wait like a series, but are not one.
"""

Series = tuple[Owner, str, str]
"""A counter or histogram series: its owner, its family, and its label values joined with SEPARATOR."""

COUNTER_OF = {RUN_DURATION: RUNS}
"""The counter that is exposed together with a histogram, by the histogram's family."""


class _Group(msgspec.Struct):
    """Series that one page was the first to expose as 0. `since`: when the page was rendered."""

    since: float
    series: set[Series]


class ZeroFirst:
    """The pending series, in groups by the page that first exposed them as 0.

    A series is due when its 0 has been exposed for `zero_first` seconds and a scrape has read it. The cost depends on
    the number of series that change, not on the number of pending ones.
    """

    def __init__(self, zero_first: float, monotonic: Callable[[], float]) -> None:
        self.zero_first = zero_first
        self._monotonic = monotonic
        self._scraped = -1
        self._lock = threading.Lock()
        self._groups: dict[int, _Group] = {}  # by generation, oldest first
        self._generations: dict[Series, int] = {}
        self._unserved: set[Series] = set()

    def not_served(self, series: Iterable[Series]) -> None:
        """Add series that counted while their family is not served. They are due at once: no scrape sees a 0."""
        with self._lock:
            self._unserved.update(series)

    def shown(self, generation: int, series: Collection[Series]) -> None:
        """Add the series that the page of this generation is the first to expose as 0.

        The counter of an added histogram waits again if it is pending, so that both are exposed together.
        """
        if not series:
            return
        with self._lock:
            group = self._groups.setdefault(generation, _Group(self._monotonic(), set()))
            for owner, family, labels in series:
                self._add(generation, group, (owner, family, labels))
                counter = (owner, COUNTER_OF.get(family, ""), labels)
                if counter in self._generations:
                    self._add(generation, group, counter)

    def scraped(self, generation: int) -> None:
        """Record that a scrape has read the page of this generation. Never blocks; only one thread may call it."""
        # Two scrapes may be recorded in the wrong order.
        self._scraped = max(self._scraped, generation)

    def due(self, wanted: Callable[[Owner], bool] = lambda _: True) -> list[Series]:
        """Return the series of `wanted` owners whose values can be exposed now. They stay due until `forget`."""
        with self._lock:
            due = [series for series in self._unserved if wanted(series[0])]
            for generation, group in self._groups.items():
                # The remaining groups are of later pages, so they are not due either.
                if not self._is_due(generation, group):
                    break
                due.extend(series for series in group.series if wanted(series[0]))
            return due

    def forget(self, series: Collection[Series]) -> None:
        """Remove series whose values are exposed or that are no longer served."""
        with self._lock:
            for each in series:
                self._drop(each)
            self._unserved.difference_update(series)

    def __len__(self) -> int:
        return len(self._generations)

    def _is_due(self, generation: int, group: _Group) -> bool:
        if self.zero_first == 0:
            return True
        return generation <= self._scraped and self._monotonic() - group.since >= self.zero_first

    def _add(self, generation: int, group: _Group, series: Series) -> None:
        if self._generations.get(series) != generation:
            self._drop(series)
        group.series.add(series)
        self._generations[series] = generation

    def _drop(self, series: Series) -> None:
        generation = self._generations.pop(series, None)
        if generation is not None:
            group = self._groups[generation]
            group.series.discard(series)
            if not group.series:
                del self._groups[generation]
