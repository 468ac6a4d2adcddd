"""What a poll of a source has shown of each run, so that the order of its rows does not matter.

An API may show a run twice in one poll, and one of the rows may be stale. Of all rows of a poll one is believed (see
`one_row_per_run`), and it is judged against what was known before the poll.
"""

from collections.abc import Sequence

import msgspec

from exporter.model import Run, Step, one_row_per_run
from exporter.state.schema import StoredRun


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What a poll has shown of a run so far.

    Attributes:
        before: Its row before the poll; None if there was none.
        run: The row that is believed.
        counted: Whether this poll has counted it.
        scope: The scope in which it was shown.
        waiting: True if nothing was written yet: the row contradicts what is known, and is believed only if the whole
            poll shows no better one.
        steps: Steps that came with a row that waits.
    """

    before: StoredRun | None
    run: Run
    counted: bool = False
    scope: str = ""
    waiting: bool = False
    steps: Sequence[Step] | None = None

    def believes(self, run: Run) -> bool:
        """Return whether a further row of the poll is to be believed instead."""
        return one_row_per_run([self.run, run])[0] is not self.run


class Sightings:
    """The sightings of one poll by run ID, those of committed batches only."""

    def __init__(self) -> None:
        self.started: float | None = None
        self._runs: dict[str, Sighting] = {}

    def start(self, started: float) -> None:
        """Forget all if another poll has started."""
        if self.started != started:
            self.started = started
            self._runs = {}

    def clear(self) -> None:
        """Forget all: the poll has read everything."""
        self._runs = {}

    def get(self, run_id: str) -> Sighting | None:
        """Return what the poll has shown of a run."""
        return self._runs.get(run_id)

    def add(self, sightings: dict[str, Sighting]) -> None:
        """Add those of a batch that is committed."""
        self._runs.update(sightings)

    def waiting(self) -> list[Sighting]:
        """Return those of which nothing was written yet."""
        return [sighting for sighting in self._runs.values() if sighting.waiting]
