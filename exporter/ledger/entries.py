"""How a reading, a run that is given up, and the steps of a run are entered in a draft.

These functions change a draft and nothing else; the ledger gives them the rows they need and commits the draft.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from exporter.counting import counting
from exporter.counting.counting import Context, Known, Mark, Rules, Verdict
from exporter.counting.records import OTHER, JobState, ScopeState, clean, label_of
from exporter.counting.rules import SourceRules
from exporter.ledger.draft import Draft
from exporter.ledger.sightings import Sighting, Sightings
from exporter.metrics.families import QUEUE_DURATION, RUN_DURATION
from exporter.model import Disposition, Reading, Result, Run, Step, Window, one_row_per_run
from exporter.state.schema import StepMark, StoredRun

MAX_WORDS = 20
"""Unmapped status words a source; what comes after is counted under `__other__`."""

MISSING_GRACE = 900.0
"""Seconds for which discovery must leave a job out before its series end: one wrong answer ends nothing."""

MAX_RANGES = 1000
"""Ranges never read that a source remembers; older ones can no longer be reported again."""

STEP_TRIES = 4
"""How often steps are asked for that are still open although their run has ended, or that a young run seems to lack."""

MAX_STEP_BACKOFF = 3600.0
"""The longest wait between two attempts to fetch a run's steps, in seconds."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """When something is entered.

    Attributes:
        now: The current instant, by the API's clock.
        started: When the poll started.
        starting: Whether no poll of the source has been complete since this process started.
    """

    now: float
    started: float
    starting: bool = False


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry must know besides records and rows.

    Attributes:
        sightings: What earlier readings of the poll have shown.
        is_busy: Whether a job has open runs.
    """

    sightings: Sightings
    is_busy: Callable[[int], bool]


class Entered(msgspec.Struct, kw_only=True):
    """What was entered. `delays`: seconds from each counted ending to now."""

    dispositions: Counter[Disposition] = msgspec.field(default_factory=Counter)
    results: Counter[Result] = msgspec.field(default_factory=Counter)
    delays: list[float] = []


class Entry:
    """Enters things in one draft.

    Args:
        draft: What is changed.
        rules: The source's rules.
        counting_rules: How endings are added up.
        step_histograms: Whether step durations are observed.
        moment: When.
        present: What was known before, and is not in the records.
    """

    def __init__(  # noqa: PLR0913  # each is one of the things that an entry is made of
        self,
        draft: Draft,
        rules: SourceRules,
        counting_rules: Rules,
        moment: Moment,
        present: Present,
        *,
        step_histograms: bool,
    ) -> None:
        self._draft = draft
        self._rules = rules
        self._counting = counting_rules
        self._moment = moment
        self._present = present
        self._histograms = step_histograms
        self._contexts: dict[int, Context | None] = {}
        self._rules_of: dict[int, Rules] = {}
        self.sightings: dict[str, Sighting] = {}
        self.entered = Entered()

    def reading(self, reading: Reading, rows: Mapping[str, StoredRun]) -> None:
        """Enters a reading. `rows`: the committed rows of its runs and of those that are gone."""
        if not reading.exists:
            self._vanished(reading)
            return
        scope = self._scope(reading)
        self._draft.describe(reading.jobs)
        self._draft.unfold()
        if reading.catalog:
            self._catalog(reading)
        runs = one_row_per_run(reading.runs)
        self.entered.dispositions[Disposition.DUPLICATE] += len(reading.runs) - len(runs)
        for run in sorted(runs, key=_order):
            self._run(run, reading.steps.get(run.run_id), reading.scope, rows)
        for run_id in reading.gone:
            if run_id in rows and rows[run_id].known.mark is Mark.OPEN:
                self.give_up(rows[run_id])
        self.entered.dispositions[Disposition.DUPLICATE] += reading.unchanged
        self.entered.dispositions[Disposition.INVALID] += reading.invalid
        self._progress(reading, scope)

    def _scope(self, reading: Reading) -> ScopeState:
        """The scope's record; one that could not be read before gets its own baseline instant."""
        source = self._draft.source
        known = source.scopes.get(reading.scope)
        if known is None:
            self._draft.put_scope(reading.scope, ScopeState(baseline=self._first_instant(reading)))
        elif known.watermark is None and not known.read and not known.readable and reading.readable:
            self._draft.put_scope(reading.scope, ScopeState(baseline=self._moment.started))
        known = self._draft.scope(reading.scope)
        known.readable, known.missing_since = reading.readable, None
        known.read = known.read or reading.readable
        listing = reading.listing
        if listing is not None and listing.at != source.listed and listing.scopes <= source.scopes.keys():
            source.listed = listing.at
        return known

    def _first_instant(self, reading: Reading) -> float:
        """From when endings of a new scope count: the source's instant, or the last listing that did not show it."""
        source = self._draft.source
        if reading.listing is not None and source.listed is not None:
            return source.listed
        return self._moment.started if source.baseline is None else source.baseline

    def _vanished(self, reading: Reading) -> None:
        """Ends the jobs of a scope that exists no more, and forgets it once that has been said for a while."""
        now = self._moment.now
        if reading.scope in self._draft.source.scopes:
            scope = self._draft.scope(reading.scope)
            scope.readable = scope.readable and reading.readable
            scope.missing_since = now if scope.missing_since is None else scope.missing_since
            self._catalog(reading)
            busy = any(self._present.is_busy(key) for key in self._draft.keys(reading.scope))
            if now - scope.missing_since > MISSING_GRACE and not busy:
                self._draft.drop_scope(reading.scope)
        self._note(reading)

    def _note(self, reading: Reading) -> None:
        for name, note in reading.notes.items():
            self._draft.note(name, note)

    def _catalog(self, reading: Reading) -> None:
        """Notes which jobs discovery shows, and ends those that it has not shown for a while."""
        shown = {job.job_id for job in reading.jobs}
        for key in self._draft.keys(reading.scope):
            state = self._draft.look(key)
            if state.job.job_id in shown:
                if not state.listed or state.missing_since is not None:
                    state = self._draft.job(key)
                    state.listed, state.missing_since = True, None
            elif state.listed and state.missing_since is None:
                self._draft.job(key).missing_since = self._moment.now
            elif state.listed and not state.gone and self._moment.now - (state.missing_since or 0) > MISSING_GRACE:
                self._end_job(key)

    def _end_job(self, key: int) -> None:
        """End a job's series, but not while a run of it goes on: its completion must be seen."""
        if not (self._rules.never_expires(self._draft.look(key)) or self._present.is_busy(key)):
            self._draft.retire(key)

    def _run(self, run: Run, steps: Sequence[Step] | None, scope: str, rows: Mapping[str, StoredRun]) -> None:
        key = self._draft.find(run.job_id)
        row = self._draft.runs.get(run.run_id) or rows.get(run.run_id)
        context = None if key is None else self._context(key, scope)
        if key is None or context is None:
            self.entered.dispositions[Disposition.IGNORED] += 1
            if key is not None and row is not None and row.job != key:
                self._moved_away(key, run, row)
            return
        seen = self._present.sightings.get(run.run_id)
        if seen is not None and not seen.believes(run):
            self.entered.dispositions[Disposition.DUPLICATE] += 1
            return
        before = seen.before if seen else row
        if before is not None and _left_out_since(before, run, context):
            before = None
        verdict = counting.judge(before.known if before else None, run, context)
        counted = seen is not None and seen.counted
        sighting = Sighting(before=before, run=run, counted=counted or verdict.counts, scope=scope, steps=steps)
        if before is not None and verdict.keep is not None and _contradicts(before, run):
            self.sightings[run.run_id] = msgspec.structs.replace(sighting, counted=False, waiting=True)
            return
        self.sightings[run.run_id] = sighting
        self._believe(key, sighting, verdict, row, counts=verdict.counts and not counted)

    def _believe(self, key: int, sighting: Sighting, verdict: Verdict, row: StoredRun | None, *, counts: bool) -> None:
        """Write what a row means. `row`: what is written of the run so far, in this poll or before."""
        first = verdict.disposition in {Disposition.NEW, Disposition.LATE}
        disposition = Disposition.UPDATED if first and row is not None else verdict.disposition
        self.entered.dispositions[disposition] += 1
        if verdict.keep is None:
            return
        if (counts or verdict.keep.mark is Mark.OPEN) and self._draft.look(key).gone:
            self._draft.revive(key)
        stored = self._row(key, verdict.keep, row, late=disposition is Disposition.LATE)
        self._draft.runs[sighting.run.run_id] = stored
        if counts:
            self._ending(stored, sighting.steps)
        elif sighting.run.result is not None:
            self._uncounted(stored, row)

    def settle(self, rows: Mapping[str, StoredRun]) -> None:
        """Believe the rows that contradict what was known, as the poll has shown none that is better."""
        for sighting in self._present.sightings.waiting():
            run = sighting.run
            key = self._draft.find(run.job_id)
            exists = sighting.scope in self._draft.source.scopes
            context = self._context(key, sighting.scope) if exists and key is not None else None
            if key is None or context is None or sighting.before is None:
                continue
            verdict = counting.judge(sighting.before.known, run, context)
            self._believe(key, sighting, verdict, rows.get(run.run_id), counts=verdict.counts)

    def _moved_away(self, key: int, run: Run, row: StoredRun) -> None:
        """Take a run from its job: it belongs to one that the configuration excludes, and counts for none."""
        if row.known.mark is Mark.OPEN:
            mark = Mark.OPEN if run.result is None else Mark.BASELINE
            known = msgspec.structs.replace(row.known, run=run, mark=mark)
            self._draft.runs[run.run_id] = msgspec.structs.replace(row, known=known, job=key, seen=self._moment.now)

    def _context(self, key: int, scope: str) -> Context | None:
        """What judgements about a job's runs depend on; None for a job that is not wanted."""
        if key not in self._contexts:
            state = self._draft.look(key)
            wanted = self._rules.wants(label_of(state.job))
            self._contexts[key] = self._judging(state, self._draft.source.scopes[scope]) if wanted else None
        return self._contexts[key]

    def _judging(self, job: JobState, scope: ScopeState) -> Context:
        ahead = scope.watermark is not None and scope.watermark > self._moment.now
        return Context(
            baseline=job.baseline,
            watermark=None if ahead else scope.watermark,
            settled=scope.complete and self._moment.started > job.baseline,
            included_later=job.baseline > scope.baseline,
            forgotten=self._draft.source.forgotten,
            reopens=self._rules.reopens and job.job.reopens,
            max_run_age=self._rules.max_run_age,
        )

    def _row(self, key: int, keep: Known, row: StoredRun | None, *, late: bool) -> StoredRun:
        """The row to be written; an unmapped word is counted once a run."""
        run, words = keep.run, row.words if row else ""
        if run.unmapped and run.unmapped not in words.split("\n"):
            words = f"{words}\n{run.unmapped}".strip("\n")
            self._unmapped(run.unmapped)
        begun = counting.origin(run)
        return StoredRun(
            known=keep,
            job=key,
            seen=self._moment.now,
            origin=begun if begun is not None else row.origin if row else self._moment.now,
            words=words,
            steps=row.steps if row else StepMark.NONE,
            tries=row.tries if row else 0,
            asked=row.asked if row else 0,
            due=row.due if row else None,
            step_results=row.step_results if row else None,
            late=late or (row is not None and row.late),
        )

    def _unmapped(self, word: str) -> None:
        family = "jobrun_source_unmapped_status_total"
        word = clean(word)[:60]
        known = self._draft.source.counts.get(family, {})
        label = word if word in known or len(known) < MAX_WORDS else OTHER
        self._draft.source.count(family, label, released=self._counting.released)

    def _ending(self, stored: StoredRun, steps: Sequence[Step] | None) -> None:
        """Counts an ending; its steps are asked for later, unless they came with it."""
        run = stored.known.run
        state = self._draft.job(stored.job)
        if state.missing_since is not None:
            self._draft.stay(state.key)
        target = self._draft.target(state)
        shown = run
        if run.error_type:
            shown = msgspec.structs.replace(shown, error_type=self._draft.error_type(target, run))
        if stored.known.earlier:
            # It was created for its first life: what it waited since then says nothing about this one.
            shown = msgspec.structs.replace(shown, queue_duration=None)
        counting.count_ending(target, shown, self._counting_of(target), attempts=self._rules.attempts)
        self._observe(target, shown)
        if counting.note_ending(state, shown, self._moment.now):
            self._draft.recount.add(state.key)
        self.entered.results[run.result or Result.UNKNOWN] += 1
        if run.end is not None:
            self.entered.delays.append(self._moment.now - run.end)
        if not (state.job.has_steps and self._rules.wants_steps(run.result)):
            return
        pending = msgspec.structs.replace(stored, steps=StepMark.PENDING, tries=0, asked=0, due=self._moment.now)
        self._draft.runs[run.run_id] = pending
        if steps and not any(step.result is None for step in steps):
            self.steps(pending, steps)

    def _observe(self, target: JobState, run: Run) -> None:
        """Observe how long a run took and waited."""
        result, bounds = run.result or Result.UNKNOWN, self._counting_of(target).run_buckets
        if run.duration is not None:
            job = self._draft.observer(target, RUN_DURATION, result, bounds=bounds)
            counting.observe_duration(job, run, self._counting_of(job))
        if run.queue_duration is not None:
            job = self._draft.observer(target, QUEUE_DURATION, bounds=bounds)
            counting.observe_queue(job, run, self._counting_of(job))

    def _counting_of(self, job: JobState) -> Rules:
        """How endings of a job are added up. Whether an objective sets its buckets is asked once a job, not a run."""
        rules = self._rules_of.get(job.key)
        if rules is None:
            rules = msgspec.structs.replace(self._counting, run_buckets=self._rules.run_buckets(job))
            self._rules_of[job.key] = rules
        return rules

    def _uncounted(self, stored: StoredRun, row: StoredRun | None) -> None:
        """Moves the gauges for an ending of the baseline, or for a change of one that has been entered."""
        state, run = self._draft.job(stored.job), stored.known.run
        if row is None:
            recount = counting.note_ending(state, run, self._moment.now) or self._draft.source.forgotten is not None
        else:
            if row.job != state.key:
                self._draft.recount.add(row.job)
                self._draft.correct.add(row.job)
            counting.note_change(state, run, self._moment.now)
            before = row.known
            recount = (before.run.result, before.run.end, before.mark) != (run.result, run.end, stored.known.mark)
            if recount:
                self._draft.correct.add(state.key)
        if recount:
            self._draft.recount.add(state.key)

    def _progress(self, reading: Reading, scope: ScopeState) -> None:
        source, now = self._draft.source, self._moment.now
        if reading.truncated:
            source.count("jobrun_source_truncated_responses_total", amount=reading.truncated)
            source.last_truncated = now
        for window in reading.unobserved:
            if window.start < min(window.end, now):
                self._unobserved(Window(window.start, min(window.end, now)))
        self._note(reading)
        # What claims to be read of the future was asked for by a wrong clock.
        if reading.readable and reading.through is not None and reading.through <= now:
            ahead = scope.watermark is None or scope.watermark > now
            scope.watermark = reading.through if ahead else max(scope.watermark or 0.0, reading.through)

    def _unobserved(self, window: Window) -> None:
        """Adds what of a range is not yet known to be lost."""
        source = self._draft.source
        before = _covered(source.unobserved)
        source.unobserved = merged([*source.unobserved, (window.start, window.end)])
        seconds = _covered(source.unobserved) - before
        del source.unobserved[:-MAX_RANGES]
        if self._moment.starting and not self._counting.released:
            source.held_unobserved += seconds
        else:
            source.count("jobrun_source_unobserved_seconds_total", amount=seconds)

    def give_up(self, row: StoredRun) -> None:
        """End an open run as `unknown`: no duration, no change of the last-run gauges and the streak.

        A run of a job that the configuration excludes is followed no more, and counts nothing.
        """
        state = self._draft.job(row.job)
        wanted = self._rules.wants(label_of(state.job))
        if wanted:
            run, mark = msgspec.structs.replace(row.known.run, state=None, result=Result.UNKNOWN), Mark.GIVEN_UP
        else:
            run, mark = row.known.run, Mark.BASELINE
        known = msgspec.structs.replace(row.known, run=run, mark=mark)
        self._draft.runs[run.run_id] = msgspec.structs.replace(row, known=known, seen=self._moment.now)
        if not wanted or counting.is_cleaning_up(row.known, reopens=self._rules.reopens and state.job.reopens):
            return  # nothing to count, or its completion is counted
        if state.missing_since is not None:
            self._draft.stay(state.key)
        target = self._draft.target(state)
        target.count("jobrun_runs_total", Result.UNKNOWN, released=self._counting.released)
        self.entered.results[Result.UNKNOWN] += 1

    def steps(self, row: StoredRun, steps: Sequence[Step]) -> None:
        """Enters the steps of an ended run, unless one is still open and may be asked again."""
        if any(step.result is None for step in steps) and row.asked + 1 < STEP_TRIES:
            self._again(msgspec.structs.replace(row, asked=row.asked + 1))
            return
        state = self._draft.job(row.job)
        target = self._draft.target(state)
        labels = {step.name: self._draft.step_label(target, step) for step in steps}
        if row.known.mark is Mark.COUNTED:
            counting.count_steps(target, steps, labels, self._counting, histograms=self._histograms)
        elif not target.overflow:
            for label in labels.values():
                counting.seed_step(target, label, self._counting)
        counting.note_steps(state, row.known.run, steps, row.seen)
        self._draft.runs[row.known.run.run_id] = msgspec.structs.replace(
            row,
            steps=StepMark.COUNTED,
            due=None,
            step_results=msgspec.json.encode([[clean(s.name), s.result, s.duration] for s in steps]).decode(),
        )

    def steps_missing(self, row: StoredRun) -> None:
        """Notes that the API does not have a run's steps: lost, or asked for again while the run is young."""
        too_old = row.origin < self._moment.now - self._rules.reach
        if not too_old and row.asked + 1 < STEP_TRIES:
            self._again(msgspec.structs.replace(row, asked=row.asked + 1))
            return
        self._draft.runs[row.known.run.run_id] = msgspec.structs.replace(row, steps=StepMark.LOST, due=None)
        if row.known.mark is Mark.COUNTED:
            self._draft.source.count("jobrun_source_steps_lost_total")

    def steps_failed(self, row: StoredRun) -> None:
        """Notes that asking for a run's steps failed; they are asked for again, for as long as it takes."""
        self._again(row)

    def _again(self, row: StoredRun) -> None:
        # From the start of the poll, or the next one would come a moment too early for it.
        wait = min(self._rules.poll_interval * 2 ** min(row.tries, 12), MAX_STEP_BACKOFF)
        self._draft.runs[row.known.run.run_id] = msgspec.structs.replace(
            row, tries=row.tries + 1, due=self._moment.started + wait
        )


def _left_out_since(row: StoredRun, run: Run, context: Context) -> bool:
    """Whether a run that was open when its job was left out ended before the job was included again."""
    was_open = row.known.mark is Mark.OPEN and row.seen < context.baseline and context.included_later
    return was_open and run.end is not None and run.end <= context.baseline


def _contradicts(before: StoredRun, run: Run) -> bool:
    """Return whether a row says less than what was known before the poll: it is stale, or a run was taken back.

    A run that the exporter ended itself, or that had not ended, can say anything.
    """
    known = before.known.run
    if before.known.mark is Mark.OPEN or before.known.mark is Mark.GIVEN_UP or known.result is None:
        return False
    return one_row_per_run([known, run])[0] is known


def _order(run: Run) -> float:
    """Endings are entered in the order in which they happened."""
    return run.end if run.end is not None else run.start or 0.0


def merged(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same stretches of time, in order and without overlaps."""
    result: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _covered(ranges: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in ranges)
