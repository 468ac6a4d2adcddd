"""The world as one response shows it: the ground truth, changed by active disruptions."""

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from exporter.simulators.disruptions import (
    Drop,
    Duplicate,
    Late,
    LostEnd,
    Nameless,
    Shorter,
    Shuffle,
    Stale,
    WrongAnswer,
)
from exporter.simulators.world import SimRun

Row = TypeVar("Row")

IDS = ("id", "runId", "handle")
"""Keys under which rows have their IDs."""


class Seen(NamedTuple):
    """A run, and the time for which its state is shown."""

    run: SimRun
    now: float


class ResponseView:
    """The world as one response shows it. A vendor passes its runs through `see`, and its rows through `rows`."""

    def __init__(
        self, now: float, wrong_answers: Sequence[WrongAnswer] = (), generator: random.Random | None = None
    ) -> None:
        self._wrong_answers = wrong_answers
        self._random = generator or random.Random(0)
        self.now = now - sum(wrong.seconds for wrong in wrong_answers if isinstance(wrong, Stale))
        self._distorting = [wrong for wrong in wrong_answers if isinstance(wrong, Late | LostEnd | Shorter)]

    @property
    def undistorted(self) -> bool:
        """Return whether all runs are shown as they were at `now`."""
        return not self._distorting

    def see(self, runs: Iterable[SimRun]) -> list[Seen]:
        """Return the runs that were created before the time that the response shows.

        A completed run may look active here. So lists of active runs must start from all runs of the world.
        """
        if self.undistorted:
            return [Seen(run, self.now) for run in runs if run.created <= self.now]
        seen = (_distorted(Seen(run, self.now), self._distorting) for run in runs)
        return [one for one in seen if one.run.created <= one.now]

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows as the active disruptions change them: without some, repeated, without IDs, or shuffled."""
        shown = list(rows)
        for wrong in self._wrong_answers:
            if isinstance(wrong, Drop | Duplicate | Shuffle | Nameless):
                shown = ROW_CHANGES[type(wrong)](self._random, wrong, shown)
        return shown


def chosen(run_id: str, share: float) -> bool:
    """Return whether a run belongs to a fraction of all runs. The answer for a run never changes."""
    digest = hashlib.blake2b(run_id.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") < share * 2**32


def _distorted(seen: Seen, wrong_answers: Sequence[Late | LostEnd | Shorter]) -> Seen:
    run, now = seen
    for wrong in wrong_answers:
        if isinstance(wrong, Late):
            now -= wrong.seconds if chosen(run.run_id, wrong.share) else 0.0
        elif isinstance(wrong, Shorter):
            if run.end is not None and (run.run_id in wrong.run_ids or chosen(run.run_id, wrong.share)):
                run = msgspec.structs.replace(run, end=max(run.start, run.end - wrong.seconds))
        elif run.run_id in wrong.run_ids or run.job_id in wrong.job_ids or chosen(run.run_id, wrong.share):
            run = msgspec.structs.replace(run, end=None, result=None)
    return Seen(run, now)


def _dropped(generator: random.Random, wrong: Drop, rows: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [row for row in rows if not _is_named(row, wrong) and generator.random() >= wrong.share]


def _doubled(generator: random.Random, wrong: Duplicate, rows: list[Row]) -> list[Row]:
    return [copy for row in rows for copy in [row] * (1 + (generator.random() < wrong.share))]


def _shuffled(generator: random.Random, _wrong: Shuffle, rows: list[Row]) -> list[Row]:
    return generator.sample(rows, len(rows))


def _unnamed(generator: random.Random, wrong: Nameless, rows: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [_without_id(row) if _is_named(row, wrong) or generator.random() < wrong.share else row for row in rows]


def _is_named(row: Mapping[str, object], wrong: Nameless | Drop) -> bool:
    # IDs are read only if a disruption names runs, because rows may already be encoded.
    return bool(wrong.run_ids) and any(row.get(key) in wrong.run_ids for key in IDS)


def _without_id(row: Mapping[str, object]) -> Mapping[str, object]:
    return {key: value for key, value in row.items() if key not in IDS}


ROW_CHANGES: dict[type[WrongAnswer], Callable[..., list]] = {  # type: ignore[type-arg]  # rows are of the vendor's type
    Drop: _dropped,
    Duplicate: _doubled,
    Shuffle: _shuffled,
    Nameless: _unnamed,
}
