"""Collects what a poll has shown of each run, so that the order of rows does not matter.

An API may show a run twice in one poll, and one of the rows may be stale. The ledger uses one row of each run (see
`one_row_per_run`) and compares it with what was known before the poll.
"""

from collections.abc import Sequence

import msgspec

from exporter.model import Run, Step, one_row_per_run
from exporter.state.schema import StoredRun


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What a poll has shown of a run so far.

    Attributes:
        before: The run's stored row before the poll; None if there was none.
        run: The best row so far.
        counted: Whether this poll has counted the run.
        scope: The scope in which it was shown.
        waiting: True if nothing was written yet, because the row contradicts what is known. It is used only if the
            whole poll shows no better one.
        steps: Steps that came with a waiting row.
    """

    before: StoredRun | None
    run: Run
    counted: bool = False
    scope: str = ""
    waiting: bool = False
    steps: Sequence[Step] | None = None

    def believes(self, run: Run) -> bool:
        """Return whether another row of the poll is better."""
        return one_row_per_run([self.run, run])[0] is not self.run


class Sightings:
    """The sightings of one poll by run ID, from committed batches only."""

    def __init__(self) -> None:
        self.started: float | None = None
        self._runs: dict[str, Sighting] = {}

    def start(self, started: float) -> None:
        """Clear the sightings if another poll has started."""
        if self.started != started:
            self.started = started
            self._runs = {}

    def clear(self) -> None:
        """Clear the sightings, because the poll has read everything."""
        self._runs = {}

    def get(self, run_id: str) -> Sighting | None:
        """Return what the poll has shown of a run."""
        return self._runs.get(run_id)

    def add(self, sightings: dict[str, Sighting]) -> None:
        """Add the sightings of a committed batch."""
        self._runs.update(sightings)

    def waiting(self) -> list[Sighting]:
        """Return the sightings of which nothing was written yet."""
        return [sighting for sighting in self._runs.values() if sighting.waiting]
