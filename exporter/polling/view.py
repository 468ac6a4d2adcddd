"""The part of the state that a source may read while it polls."""

from collections.abc import Callable, Collection, Mapping, Sequence

from exporter.counting.classify import CountState
from exporter.counting.labels import label_of
from exporter.counting.records import OpenRun
from exporter.ledger.ledger import Ledger
from exporter.model import Window


class LedgerView:
    """Implements `exporter.sources.source.View` for one poll of one source.

    Args:
        ledger: The ledger.
        source: The source's name.
        clock: Returns the time of the API's clock.
        sweep_due: Whether this poll also reads the sweep window.
        wants: Returns whether a job's name is included.
        out_of_time: Returns whether this poll has used up its interval.
    """

    def __init__(  # noqa: PLR0913  # each argument is one part of the view
        self,
        ledger: Ledger,
        source: str,
        *,
        clock: Callable[[], float],
        sweep_due: bool,
        wants: Callable[[str], bool],
        out_of_time: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._source = source
        self._clock = clock
        self.sweep_due = sweep_due
        self.wanted = wants
        self.out_of_time = out_of_time

    @property
    def now(self) -> float:
        """Return the current time by the API's clock."""
        return self._clock()

    @property
    def first_poll(self) -> float:
        """Return the source's baseline."""
        baseline = self._ledger.source(self._source).baseline
        return self._clock() if baseline is None else baseline

    @property
    def checkpoints(self) -> Mapping[str, str]:
        """Return the committed positions at which the source continues to read."""
        return self._ledger.source(self._source).checkpoints

    @property
    def scopes(self) -> frozenset[str]:
        """Return the scopes in the state."""
        return frozenset(self._ledger.source(self._source).scopes)

    def watermark(self, scope: str = "") -> float | None:
        """Return the time up to which all completed runs of the scope are counted."""
        state = self._ledger.source(self._source).scopes.get(scope)
        return state.watermark if state else None

    def baseline(self, scope: str = "") -> float:
        """Return the scope's baseline."""
        state = self._ledger.source(self._source).scopes.get(scope)
        return self._clock() if state is None else state.baseline

    def open_runs(self, scope: str | None = None) -> Sequence[OpenRun]:
        """Return active runs of jobs that the configuration includes, oldest first."""
        jobs = self._ledger.committed.jobs
        runs = self._ledger.open_runs(self._source, scope)
        return [run for run in runs if self.wanted(label_of(jobs[run.job].job))]

    def started_between(self, start: float, end: float) -> frozenset[str]:
        """Return the IDs of known runs that started in this window."""
        with self._ledger.locked():
            return self._ledger.store().started_between(self._source, Window(start, end))

    def known(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return the IDs that are in the state."""
        return frozenset(self._ledger.rows(self._source, run_ids))

    def ended(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return the IDs that are in the state as completed runs. An expired run may still complete."""
        rows = self._ledger.rows(self._source, run_ids)
        expired_or_open = {CountState.OPEN, CountState.EXPIRED}
        return frozenset(run_id for run_id, row in rows.items() if row.mark not in expired_or_open)

    def step_counts(self) -> Mapping[str, int]:
        """Return the number of steps per job, by job ID."""
        steps = self._ledger.committed.steps
        return {job.job.job_id: steps[job.key] for job in self._ledger.jobs_of(self._source)}
