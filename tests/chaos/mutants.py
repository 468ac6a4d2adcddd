"""Broken exporters, each of which the auditor must find.

Each is a ledger with one plausible mistake that breaks a promise.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.counters import CountingRules
from exporter.counting.rules import SourceRules
from exporter.counting.series import Count
from exporter.errors import StateError
from exporter.ledger.batch_writer import BatchStats
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.ledger.transaction import Transaction
from exporter.model import Batch, Result, Run, State, Step
from exporter.simulators.world import MARK
from exporter.snapshot.builder import Committed
from exporter.state.schema import StepState, StoredRun
from exporter.state.sql import LoadedState
from tests.chaos.simulated_process import LedgerFactory


class CountsBeforeCommit(Ledger):
    """Counts a batch in memory before the commit. If the commit fails, the batch is counted again later."""

    def _commit(self, transaction: Transaction, now: float) -> None:
        for job in transaction.jobs.values():
            self.committed.put_job(job, 0)
        super()._commit(transaction, now)


class NoDeduplication(Ledger):
    """Does not deduplicate completed runs, so overlapping windows count them twice."""

    def rows(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        return {key: row for key, row in super().rows(source, run_ids).items() if row.mark is CountState.OPEN}


class WatermarkTooLate(Ledger):
    """Sets the watermark later than the time up to which runs were read."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        if batch.through is not None:
            batch = msgspec.structs.replace(batch, through=poll_context.now + 6 * 3600)
        return super().commit(source, batch, poll_context)


class DropsUnobservedRanges(Ledger):
    """Does not record unobserved ranges."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        return super().commit(source, msgspec.structs.replace(batch, unobserved=()), poll_context)


class LosesStepMark(Ledger):
    """Marks the steps of some runs as not counted after it has counted them."""

    def commit_steps(self, source: str, row: StoredRun, steps: Sequence[Step], poll_context: PollContext) -> None:
        super().commit_steps(source, row, steps, poll_context)
        if hash(row.run.run_id) % 5 == 0:
            with self.writing() as store:
                store.put_runs(
                    source, [msgspec.structs.replace(row, steps=StepState.PENDING, due=poll_context.now + 60)]
                )


class ResetsCounters(Ledger):
    """Restarts counters at 0 in a new process."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        super()._replace_everything(loaded)
        for job in self.committed.jobs.values():
            for series in job.counts.values():
                series.update((labels, Count(released=True)) for labels in series)


class ForgetsActiveRuns(Ledger):
    """Forgets the active runs in a new process."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        loaded.open_runs = []
        super()._replace_everything(loaded)


class NeverExpires(Ledger):
    """Does not let runs expire that never complete."""

    def expire_open_runs(self, *_: object, **__: object) -> BatchStats:
        return BatchStats()


class HidesFailedCommits(Ledger):
    """Does not report to the source that the state could not be written."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        try:
            return super().commit(source, batch, poll_context)
        except StateError:
            return BatchStats()


class NoZeroFirst(Ledger):
    """Exposes new series at once, although they must show 0 first."""

    def _commit(self, transaction: Transaction, now: float) -> None:
        for job in transaction.jobs.values():
            for series in job.counts.values():
                for count in series.values():
                    count.released = True
        super()._commit(transaction, now)


class BaselineTooEarly(Ledger):
    """Sets the baseline a day too early, so runs before the first poll are counted."""

    def start_poll(self, source: str, now: float) -> int:
        first = self.committed.sources[source].baseline is None
        return super().start_poll(source, now - 86400 if first else now)


class CommitsInParts(Ledger):
    """Commits runs before the counters of their jobs. A kill may come between these two transactions."""

    def _commit(self, transaction: Transaction, now: float) -> None:
        if transaction.runs and self.committed.sources[transaction.source.name].scopes:
            with self.writing() as store:
                store.put_runs(transaction.source.name, transaction.runs.values())
        super()._commit(transaction, now)


class StreakIgnoresSuccess(Ledger):
    """Does not end the streak of a job at a success."""

    def _commit(self, transaction: Transaction, now: float) -> None:
        for key, job in transaction.jobs.items():
            before = self.committed.jobs.get(key)
            if before is not None and job.last_run is not None and job.last_run.result is Result.SUCCESS:
                job.streak = max(job.streak, before.streak)
        super()._commit(transaction, now)


class StoresCustomerText(Ledger):
    """Writes a customer's text to the state."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        if source == "snowplow":
            batch = msgspec.structs.replace(batch, checkpoints={**batch.checkpoints, "title": MARK})
        return super().commit(source, batch, poll_context)


class StoresCompletedAsActive(Ledger):
    """Stores some completed runs as active ones. The source does not show them again."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        runs = [as_active(run) if hash(run.run_id) % 5 == 0 else run for run in batch.runs]
        return super().commit(source, msgspec.structs.replace(batch, runs=runs), poll_context)


def as_active(run: Run) -> Run:
    """Return a completed run as it was while it was active."""
    return msgspec.structs.replace(run, result=None, state=State.EXECUTING, end=None, duration=None)


class KeepsCompletedAsActive(Ledger):
    """Keeps completed runs among the active ones in memory."""

    def _commit(self, transaction: Transaction, now: float) -> None:
        open_runs = transaction.open_runs
        transaction.open_runs = lambda: {each: run for each, run in open_runs().items() if run}  # type: ignore[method-assign]  # to be broken
        super()._commit(transaction, now)


class SameLabels(Ledger):
    """Gives two jobs the same labels."""

    def _commit(self, transaction: Transaction, now: float) -> None:
        for job in transaction.jobs.values():
            if job.name == "job-1":
                job.name = "job-0"
        super()._commit(transaction, now)


class IgnoresMaxSeries(Ledger):
    """Ignores `metrics.max_series`."""

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: CountingRules, step_histograms: str) -> None:
        unbounded = {name: msgspec.structs.replace(each, max_series=10**9) for name, each in rules.items()}
        super().configure(unbounded, counting_rules, step_histograms)


class HidesExposedSeries(Ledger):
    """Shows exposed series as 0 again in a new process."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        super()._replace_everything(loaded)
        for job in self.committed.jobs.values():
            for series in job.counts.values():
                for count in series.values():
                    count.released = False


class CountsUnobservedTooHigh(Ledger):
    """Adds an hour too much to the unobserved seconds."""

    def _commit(self, transaction: Transaction, now: float) -> None:
        before = self.committed.sources[transaction.source.name].unobserved
        if transaction.source.unobserved != before:
            transaction.source.count("jobrun_source_unobserved_seconds_total", amount=3600.0)
        super()._commit(transaction, now)


class WatermarkStandsStill(Ledger):
    """Moves the watermark only once."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        if self.committed.sources[source].watermark() is not None:
            batch = msgspec.structs.replace(batch, through=None)
        return super().commit(source, batch, poll_context)


class CountsStepsTwice(Ledger):
    """Counts the steps of some runs twice."""

    def commit_steps(self, source: str, row: StoredRun, steps: Sequence[Step], poll_context: PollContext) -> None:
        super().commit_steps(source, row, steps, poll_context)
        if hash(row.run.run_id) % 3 == 0:
            super().commit_steps(source, row, steps, poll_context)


class DoesNotPublish(Ledger):
    """Does not publish the changes of half of the jobs."""

    def drain(self) -> Committed:
        committed = super().drain()
        changed = None if committed.changed is None else {key for key in committed.changed if key % 2}
        return msgspec.structs.replace(committed, changed=changed)


class BaselineAtRestart(Ledger):
    """Moves the baseline in a new process, so runs that completed before it are never counted."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        super()._replace_everything(loaded)
        for job in self.committed.jobs.values():
            job.baseline = (
                max((run.origin for run in self.committed.open_runs.of(job.source)), default=job.baseline) + 7200
            )


class CountsExcludedJobs(Ledger):
    """Counts excluded jobs, such as a job that was renamed to an excluded name."""

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: CountingRules, step_histograms: str) -> None:
        including = {name: msgspec.structs.replace(each, exclude=()) for name, each in rules.items()}
        super().configure(including, counting_rules, step_histograms)


MUTANTS: Mapping[str, LedgerFactory] = {
    "counts before the commit": CountsBeforeCommit,
    "no dedup": NoDeduplication,
    "watermark too far": WatermarkTooLate,
    "unobserved not recorded": DropsUnobservedRanges,
    "step mark lost": LosesStepMark,
    "restored counters reset": ResetsCounters,
    "open runs forgotten": ForgetsActiveRuns,
    "never expires": NeverExpires,
    "unwritten taken for written": HidesFailedCommits,
    "released at once": NoZeroFirst,
    "baseline too early": BaselineTooEarly,
    "commit in two parts": CommitsInParts,
    "streak survives success": StreakIgnoresSuccess,
    "customer's text stored": StoresCustomerText,
    "open row believed": StoresCompletedAsActive,
    "phantom open runs": KeepsCompletedAsActive,
    "labels alike": SameLabels,
    "bound ignored": IgnoresMaxSeries,
    "released hidden again": HidesExposedSeries,
    "unobserved twice": CountsUnobservedTooHigh,
    "watermark stands still": WatermarkStandsStill,
    "steps twice": CountsStepsTwice,
    "page forgets changes": DoesNotPublish,
    "baseline at restart": BaselineAtRestart,
    "excluded job counted": CountsExcludedJobs,
}
"""Mutants by name."""
