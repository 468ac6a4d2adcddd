"""What one answer lets its reader see of the world: the truth, but for the lies in force."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from exporter.simulators.disruptions import Drop, Duplicate, Late, Lie, LostEnd, Nameless, Shorter, Shuffle, Stale
from exporter.simulators.world import SimRun

Row = TypeVar("Row")

IDS = ("id", "runId", "handle")
"""Under which keys rows have their ids."""


class Seen(NamedTuple):
    """A run and the instant as of which it is shown."""

    run: SimRun
    now: float


class Sight:
    """The view of one answer. A vendor passes its runs through `see` and its finished rows through `rows`."""

    def __init__(self, now: float, lies: Sequence[Lie] = (), generator: random.Random | None = None) -> None:
        self._lies = lies
        self._random = generator or random.Random(0)
        self.now = now - sum(lie.seconds for lie in lies if isinstance(lie, Stale))
        self._bending = [lie for lie in lies if isinstance(lie, Late | LostEnd | Shorter)]

    @property
    def even(self) -> bool:
        """Whether all runs are shown as they truly were at one instant, `now`."""
        return not self._bending

    def see(self, runs: Iterable[SimRun]) -> list[Seen]:
        """The runs created by then, each with the instant as of which it is shown.

        A run can look open here that truly ended: who lists open runs must ask the world for all that are remembered.
        """
        if self.even:
            return [Seen(run, self.now) for run in runs if run.created <= self.now]
        seen = (_bent(Seen(run, self.now), self._bending) for run in runs)
        return [one for one in seen if one.run.created <= one.now]

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, some left out, shown twice, without an id, or in another order."""
        shown = list(rows)
        for lie in self._lies:
            if isinstance(lie, Drop | Duplicate | Shuffle | Nameless):
                shown = ROW_LIES[type(lie)](self._random, lie, shown)
        return shown


def chosen(run_id: str, share: float) -> bool:
    """Whether a run belongs to a share of all; the same run always does or never."""
    digest = hashlib.blake2b(run_id.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


def _bent(seen: Seen, lies: Sequence[Late | LostEnd | Shorter]) -> Seen:
    run, now = seen
    for lie in lies:
        if isinstance(lie, Late):
            now -= lie.seconds if chosen(run.run_id, lie.share) else 0.0
        elif isinstance(lie, Shorter):
            if run.end is not None and (run.run_id in lie.run_ids or chosen(run.run_id, lie.share)):
                run = msgspec.structs.replace(run, end=max(run.start, run.end - lie.seconds))
        elif run.run_id in lie.run_ids or run.job_id in lie.job_ids or chosen(run.run_id, lie.share):
            run = msgspec.structs.replace(run, end=None, result=None)
    return Seen(run, now)


def _dropped(generator: random.Random, lie: Drop, rows: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [row for row in rows if not _is_named(row, lie) and generator.random() >= lie.share]


def _doubled(generator: random.Random, lie: Duplicate, rows: list[Row]) -> list[Row]:
    return [copy for row in rows for copy in [row] * (1 + (generator.random() < lie.share))]


def _shuffled(generator: random.Random, _lie: Shuffle, rows: list[Row]) -> list[Row]:
    return generator.sample(rows, len(rows))


def _unnamed(generator: random.Random, lie: Nameless, rows: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [_without_id(row) if _is_named(row, lie) or generator.random() < lie.share else row for row in rows]


def _is_named(row: Mapping[str, object], lie: Nameless | Drop) -> bool:
    # Rows may be ready bytes, of which only a lie that names runs must know the ids.
    return bool(lie.run_ids) and any(row.get(key) in lie.run_ids for key in IDS)


def _without_id(row: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in row.items() if key not in IDS}


ROW_LIES: dict[type[Lie], Callable[..., list]] = {  # type: ignore[type-arg]  # rows are of the vendor's type
    Drop: _dropped,
    Duplicate: _doubled,
    Shuffle: _shuffled,
    Nameless: _unnamed,
}
