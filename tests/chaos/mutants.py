"""Broken exporters: the auditor must find each of them, or it proves nothing.

Each is the ledger with one promise broken, by a plausible mistake.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from exporter.counting.classify import CountState
from exporter.counting.counters import CountingRules
from exporter.counting.records import OpenRun
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
from tests.chaos.life import LedgerKind


class CountsBeforeCommit(Ledger):
    """What could not be written stays in memory, and is counted again later."""

    def _commit(self, draft: Transaction, now: float) -> None:
        for job in draft.jobs.values():
            self.committed.take(job, 0)
        super()._commit(draft, now)


class KnowsNoRuns(Ledger):
    """Completed runs are not deduplicated: overlapping windows count them twice."""

    def rows(self, source: str, run_ids: Collection[str]) -> dict[str, StoredRun]:
        return {key: row for key, row in super().rows(source, run_ids).items() if row.mark is CountState.OPEN}


class WatermarkTooFar(Ledger):
    """The watermark is later than what was read."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        if batch.through is not None:
            batch = msgspec.structs.replace(batch, through=poll_context.now + 6 * 3600)
        return super().commit(source, batch, poll_context)


class HidesUnobserved(Ledger):
    """Unobserved ranges are not recorded."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        return super().commit(source, msgspec.structs.replace(batch, unobserved=()), poll_context)


class LosesStepMark(Ledger):
    """Steps are counted in one transaction and marked as counted in another, which is sometimes missing."""

    def commit_steps(self, source: str, row: StoredRun, steps: Sequence[Step], poll_context: PollContext) -> None:
        super().commit_steps(source, row, steps, poll_context)
        if hash(row.run.run_id) % 5 == 0:
            with self.writing() as store:
                store.put_runs(
                    source, [msgspec.structs.replace(row, steps=StepState.PENDING, due=poll_context.now + 60)]
                )


class ForgetsCounters(Ledger):
    """Counters restart at 0 with a new process."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        super()._replace_everything(loaded)
        for job in self.committed.jobs.values():
            for series in job.counts.values():
                series.update((labels, Count(released=True)) for labels in series)


class ForgetsOpenRuns(Ledger):
    """A new process forgets the active runs."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        loaded.open_runs = []
        super()._replace_everything(loaded)


class NeverExpires(Ledger):
    """Runs that never complete do not expire."""

    def expire_open_runs(self, *_: object, **__: object) -> BatchStats:
        return BatchStats()


class EmptyIsTrue(Ledger):
    """If the state cannot be written, the source believes that it was written."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        try:
            return super().commit(source, batch, poll_context)
        except StateError:
            return BatchStats()


class ReleasedBySight(Ledger):
    """New series are exposed at once, although they must show 0 first."""

    def _commit(self, draft: Transaction, now: float) -> None:
        for job in draft.jobs.values():
            for series in job.counts.values():
                for count in series.values():
                    count.released = True
        super()._commit(draft, now)


class MovesBaseline(Ledger):
    """The baseline is a day too early: runs before the first poll are counted."""

    def start_poll(self, source: str, now: float) -> int:
        first = self.committed.sources[source].baseline is None
        return super().start_poll(source, now - 86400 if first else now)


class CommitsInParts(Ledger):
    """Runs and their job's counters are written in two transactions; a kill may come between them."""

    def _commit(self, draft: Transaction, now: float) -> None:
        if draft.runs and self.committed.sources[draft.source.name].scopes:
            with self.writing() as store:
                store.put_runs(draft.source.name, draft.runs.values())
        super()._commit(draft, now)


class StreakIgnoresSuccess(Ledger):
    """A success does not end a job's streak of failures."""

    def _commit(self, draft: Transaction, now: float) -> None:
        for key, job in draft.jobs.items():
            before = self.committed.jobs.get(key)
            if before is not None and job.last_run is not None and job.last_run.result is Result.SUCCESS:
                job.streak = max(job.streak, before.streak)
        super()._commit(draft, now)


class KeepsCustomersData(Ledger):
    """A customer's text is written to the state."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        if source == "snowplow":
            batch = msgspec.structs.replace(batch, checkpoints={**batch.checkpoints, "title": MARK})
        return super().commit(source, batch, poll_context)


class BelievesTheOpenRow(Ledger):
    """Some completed rows are stored as active, and the source takes them for completed."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        runs = [reopened(run) if hash(run.run_id) % 5 == 0 else run for run in batch.runs]
        return super().commit(source, msgspec.structs.replace(batch, runs=runs), poll_context)


def reopened(run: Run) -> Run:
    """Return the row that this run had before it ended."""
    return msgspec.structs.replace(run, result=None, state=State.EXECUTING, end=None, duration=None)


class KeepsPhantoms(Ledger):
    """A completed run stays among the active ones in memory."""

    def _update_open_runs(self, source: str, followed: Mapping[str, OpenRun | None]) -> None:
        super()._update_open_runs(source, {run_id: run for run_id, run in followed.items() if run is not None})


class NamesAlike(Ledger):
    """Two jobs get the same labels."""

    def _commit(self, draft: Transaction, now: float) -> None:
        for job in draft.jobs.values():
            if job.name == "job-1":
                job.name = "job-0"
        super()._commit(draft, now)


class IgnoresTheBound(Ledger):
    """The bound of series is ignored."""

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: CountingRules, step_histograms: str) -> None:
        boundless = {name: msgspec.structs.replace(each, max_series=10**9) for name, each in rules.items()}
        super().configure(boundless, counting_rules, step_histograms)


class HidesAgain(Ledger):
    """A new process exposes known series as 0 again."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        super()._replace_everything(loaded)
        for job in self.committed.jobs.values():
            for series in job.counts.values():
                for count in series.values():
                    count.released = False


class CountsUnobservedTwice(Ledger):
    """An hour too much is added to the unobserved seconds."""

    def _commit(self, draft: Transaction, now: float) -> None:
        before = self.committed.sources[draft.source.name].unobserved
        if draft.source.unobserved != before:
            draft.source.count("jobrun_source_unobserved_seconds_total", amount=3600.0)
        super()._commit(draft, now)


class WatermarkStandsStill(Ledger):
    """Only the first batch moves the watermark."""

    def commit(self, source: str, batch: Batch, poll_context: PollContext) -> BatchStats:
        if self.committed.sources[source].watermark() is not None:
            batch = msgspec.structs.replace(batch, through=None)
        return super().commit(source, batch, poll_context)


class CountsStepsTwice(Ledger):
    """The steps of some runs are counted twice."""

    def commit_steps(self, source: str, row: StoredRun, steps: Sequence[Step], poll_context: PollContext) -> None:
        super().commit_steps(source, row, steps, poll_context)
        if hash(row.run.run_id) % 3 == 0:
            super().commit_steps(source, row, steps, poll_context)


class ForgetsToPublish(Ledger):
    """Changes of half of the jobs do not reach the page."""

    def drain(self) -> Committed:
        committed = super().drain()
        changed = None if committed.changed is None else {key for key in committed.changed if key % 2}
        return msgspec.structs.replace(committed, changed=changed)


class StartsAgain(Ledger):
    """A new process moves the baseline: what happened before is never counted."""

    def _replace_everything(self, loaded: LoadedState) -> None:
        super()._replace_everything(loaded)
        for job in self.committed.jobs.values():
            job.baseline = (
                max((run.origin for run in self.committed.open_runs.of(job.source)), default=job.baseline) + 7200
            )


class CountsExcludedJobs(Ledger):
    """A job that is renamed to an excluded name is still counted."""

    def configure(self, rules: Mapping[str, SourceRules], counting_rules: CountingRules, step_histograms: str) -> None:
        boundless = {name: msgspec.structs.replace(each, exclude=()) for name, each in rules.items()}
        super().configure(boundless, counting_rules, step_histograms)


MUTANTS: Mapping[str, LedgerKind] = {
    "counts before the commit": CountsBeforeCommit,
    "no dedup": KnowsNoRuns,
    "watermark too far": WatermarkTooFar,
    "unobserved not recorded": HidesUnobserved,
    "step mark lost": LosesStepMark,
    "restored counters reset": ForgetsCounters,
    "open runs forgotten": ForgetsOpenRuns,
    "never expires": NeverExpires,
    "unwritten taken for written": EmptyIsTrue,
    "released at once": ReleasedBySight,
    "baseline too early": MovesBaseline,
    "commit in two parts": CommitsInParts,
    "streak survives success": StreakIgnoresSuccess,
    "customer's text stored": KeepsCustomersData,
    "open row believed": BelievesTheOpenRow,
    "phantom open runs": KeepsPhantoms,
    "labels alike": NamesAlike,
    "bound ignored": IgnoresTheBound,
    "released hidden again": HidesAgain,
    "unobserved twice": CountsUnobservedTwice,
    "watermark stands still": WatermarkStandsStill,
    "steps twice": CountsStepsTwice,
    "page forgets changes": ForgetsToPublish,
    "baseline at restart": StartsAgain,
    "excluded job counted": CountsExcludedJobs,
}
"""Mutants by the name that reports use."""
