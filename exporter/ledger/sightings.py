"""Collects the rows of each run during a poll, so that the result does not depend on their order.

An API may show a run twice in one poll, and one of the rows may be stale. The ledger uses the best row of each run (see
`one_row_per_run`) and compares it with what was known before the poll.
"""

from collections.abc import Sequence

import msgspec

from exporter.model import Run, Step, one_row_per_run
from exporter.state.schema import StoredRun


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """What a poll has shown of one run.

    Attributes:
        before: The run's stored row before the poll; None if the run is new.
        run: The best row that the poll has shown so far.
        counted: Whether this poll has counted the run.
        scope: The scope of the row.
        waiting: True if the row is not written yet, because it contradicts what is known. It is written at the end of
            the poll, unless the poll shows a better row.
        steps: Steps that came with a waiting row.
    """

    before: StoredRun | None
    run: Run
    counted: bool = False
    scope: str = ""
    waiting: bool = False
    steps: Sequence[Step] | None = None

    def prefers(self, run: Run) -> bool:
        """Return whether another row of the run is better than `self.run`."""
        return one_row_per_run([self.run, run])[0] is not self.run
