"""The counter and histogram series of a record."""

import bisect
from collections.abc import Sequence

import msgspec

SEPARATOR = "\x1f"
"""Separates the label values of a series with several labels. `clean` removes it from names of vendors."""

MAX_BOUNDS = 200
"""Maximum number of bounds that a histogram remembers after config changes."""


class Exemplar(msgspec.Struct, frozen=True, gc=False):
    """The ID of a run, attached to a counter or bucket. `timestamp`: the end of the run."""

    run_id: str
    value: float
    timestamp: float = msgspec.field(name="instant")  # the state's name for it


class Count(msgspec.Struct, omit_defaults=True):
    """A counter series. If its family is zero-first, it shows 0 until `released` is set."""

    value: float = 0.0
    released: bool = False
    exemplar: Exemplar | None = None

    @property
    def counted(self) -> bool:
        """Return whether anything was counted."""
        return self.value > 0


class Distribution(msgspec.Struct, omit_defaults=True):
    """A histogram series.

    Attributes:
        bounds: All bounds it ever had, in seconds. If a removed bound returns, its bucket must not have fallen.
        counts: Number of observations per bucket, not cumulative. The last bucket is for values above all bounds.
        sum: Sum of the observations, in seconds.
        released: Whether the values are exposed. Until then a zero-first histogram shows 0.
        exemplars: The newest exemplar of each bucket, by the index in `counts`.
        layout: The exposed bounds; None if all are exposed.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0
    released: bool = False
    exemplars: dict[int, Exemplar] = {}
    layout: tuple[float, ...] | None = None

    @classmethod
    def empty(cls, bounds: Sequence[float]) -> "Distribution":
        """Return a histogram without observations."""
        return cls(bounds=tuple(bounds), counts=[0] * (len(bounds) + 1))

    def observe(self, value: float, exemplar: Exemplar | None = None) -> None:
        """Add one observation. Each bucket keeps its newest exemplar."""
        bucket = bisect.bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if exemplar is not None:
            self._add_exemplar(bucket, exemplar)

    @property
    def counted(self) -> bool:
        """Return whether anything was observed."""
        return any(self.counts)

    @property
    def shown_bounds(self) -> tuple[float, ...]:
        """Return the bounds that are exposed."""
        return self.bounds if self.layout is None else self.layout

    def shown(self) -> "Distribution":
        """Return the histogram with only the exposed bounds."""
        return self if self.layout is None else self._with_bounds(self.layout)

    def with_bounds(self, layout: Sequence[float]) -> "Distribution":
        """Return the histogram with other exposed bounds.

        Observations stay in the bucket of their old upper bound, because their exact values are unknown.
        """
        known = sorted({*self.bounds, *layout})
        new = self._with_bounds(known if len(known) <= MAX_BOUNDS else layout)
        new.layout = None if new.bounds == tuple(layout) else tuple(layout)
        return new

    def _with_bounds(self, bounds: Sequence[float]) -> "Distribution":
        new = Distribution.empty(bounds)
        new.sum, new.released = self.sum, self.released
        places = [bisect.bisect_left(new.bounds, upper) for upper in (*self.bounds, float("inf"))]
        for place, count in zip(places, self.counts, strict=True):
            new.counts[place] += count
        for bucket, exemplar in self.exemplars.items():
            new._add_exemplar(places[bucket], exemplar)  # noqa: SLF001  # of its own class
        return new

    def _add_exemplar(self, bucket: int, exemplar: Exemplar) -> None:
        known = self.exemplars.get(bucket)
        if known is None or known.timestamp <= exemplar.timestamp:
            self.exemplars[bucket] = exemplar
