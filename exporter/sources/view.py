"""What a source may read of the state while it polls."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from exporter.counting.classify import CountState
from exporter.counting.labels import label_of
from exporter.counting.records import OpenRun
from exporter.ledger.ledger import Ledger
from exporter.model import Window


@dataclass(frozen=True, kw_only=True)
class View:
    """The committed state, as one poll of one source may read it.

    Attributes:
        clock: Returns the time of the API's clock.
        sweep_due: Whether this poll also reads the sweep window.
        includes: Returns whether the config includes a job of this name. Excluded jobs need no requests.
        out_of_time: Returns whether this poll has used up its interval, and leaves less urgent work to the next poll.
    """

    ledger: Ledger
    source: str
    clock: Callable[[], float]
    sweep_due: bool = False
    includes: Callable[[str], bool]
    out_of_time: Callable[[], bool] = lambda: False

    @property
    def now(self) -> float:
        """Return the current time by the API's clock."""
        return self.clock()

    @property
    def first_poll(self) -> float:
        """Return the source's baseline: the start of its first poll."""
        baseline = self.ledger.source(self.source).baseline
        return self.now if baseline is None else baseline

    @property
    def checkpoints(self) -> Mapping[str, str]:
        """Return the source's checkpoints by name, as committed with its batches."""
        return self.ledger.source(self.source).checkpoints

    @property
    def scopes(self) -> frozenset[str]:
        """Return the names of the scopes in the state."""
        return frozenset(self.ledger.source(self.source).scopes)

    def watermark(self, scope: str = "") -> float | None:
        """Return the time up to which all completed runs of a scope are counted; None before its first batch."""
        state = self.ledger.source(self.source).scopes.get(scope)
        return state.watermark if state else None

    def baseline(self, scope: str = "") -> float:
        """Return a scope's baseline; the current time if the scope is new."""
        state = self.ledger.source(self.source).scopes.get(scope)
        return self.now if state is None else state.baseline

    def open_runs(self, scope: str | None = None) -> Sequence[OpenRun]:
        """Return the active runs of a scope, or of all scopes, oldest first. Runs of excluded jobs are omitted."""
        jobs = self.ledger.committed.jobs
        runs = self.ledger.open_runs(self.source, scope)
        return [run for run in runs if self.includes(label_of(jobs[run.job].job))]

    def started_between(self, start: float, end: float) -> frozenset[str]:
        """Return the IDs of known runs that started between two times."""
        with self.ledger.lock:
            return self.ledger.store().started_between(self.source, Window(start, end))

    def known(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return which of these runs are in the state, active or completed."""
        return frozenset(self.ledger.rows(self.source, run_ids))

    def ended(self, run_ids: Collection[str]) -> Mapping[str, float | None]:
        """Return the ends of completed runs by ID. Expired runs are not included, because they may still complete."""
        rows = self.ledger.rows(self.source, run_ids)
        expired_or_open = {CountState.OPEN, CountState.EXPIRED}
        return {run_id: row.run.end for run_id, row in rows.items() if row.mark not in expired_or_open}

    @property
    def job_ids(self) -> frozenset[str]:
        """Return the IDs of the source's jobs in the state."""
        return frozenset(job.job.job_id for job in self.ledger.jobs_of(self.source))

    def step_counts(self) -> Mapping[str, int]:
        """Return the number of steps per job ID, from the job's latest run whose steps are known."""
        steps = self.ledger.committed.steps
        return {job.job.job_id: steps[job.key] for job in self.ledger.jobs_of(self.source)}
