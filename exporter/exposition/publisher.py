"""Brings what is committed onto the page: after each change, and when a series has shown its 0 for long enough."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from exporter.config.config import Config
from exporter.config.source import SourceSettings
from exporter.counting.records import JobState, OpenRun, clean
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.exposition.exposition import Exposition
from exporter.learning.expectations import Escalation, escalation, expectation, objective_of
from exporter.learning.learning import Learning
from exporter.ledger.ledger import UNOBSERVED, Changed, Ledger
from exporter.links import run_url
from exporter.metrics.jobview import JobView, active_of
from exporter.metrics.meters import SelfMetrics
from exporter.metrics.zero_first import Series, ZeroFirst

REFRESH = 5.0
"""Seconds after which a page is made anew although nothing was committed, for the process's own metrics."""

RELEASE_RETRY = 60.0
"""Seconds until a release that could not be committed is tried again: a full disk must not fill the log."""

MIN_PUBLISH_INTERVAL = 1.0
"""The least distance of two pages during a poll, in seconds; its end always makes one."""

LEARN_BATCH = 10
"""Jobs of which the past is looked at before others may have the ledger: some 25 ms."""

YIELD_SECONDS = 0.001
"""Seconds between."""

HELD = "unobserved"
"""The kind of owner that stands for a source's seconds that were found unobserved at the start."""


class ConfiguredSource(msgspec.Struct, frozen=True, kw_only=True):
    """A configured source, as far as its jobs' pages and links need it."""

    settings: SourceSettings
    rules: SourceRules


class Publisher:
    """Makes pages. `publish` and `tick` may be called by any thread.

    Args:
        ledger: What is committed.
        exposition: Where pages are made.
        holds: Which series still show 0.
        metrics: The exporter's own metrics.
        monotonic: A clock that never jumps, in seconds.
        sleep: Waits so many seconds.
    """

    def __init__(  # noqa: PLR0913  # everything outside is an argument
        self,
        ledger: Ledger,
        exposition: Exposition,
        holds: ZeroFirst,
        metrics: SelfMetrics,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ledger = ledger
        self._exposition = exposition
        self._holds = holds
        self._metrics = metrics
        self._monotonic = monotonic
        self._sleep = sleep
        self._learning = Learning(ledger, monotonic)
        self._started = monotonic()
        self._published = float("-inf")
        self._release_after = float("-inf")
        self._config: Config | None = None
        self._sources: Mapping[str, ConfiguredSource] = {}
        self._lock = threading.Lock()
        self._shown_jobs: set[int] = set()
        self.views: dict[int, JobView] = {}
        """What is shown of each job on the page that was made last."""
        self._shown_sources: set[str] = set()
        self._withheld: frozenset[str] = frozenset()
        self._unreadable: frozenset[tuple[str, str]] = frozenset()
        self._held: set[Series] = set()
        self._unparsed: set[tuple[int, str]] = set()
        self._without_expectations: set[int] = set()
        self._told_unmatched = False
        self._configured = False
        self.unmatched: tuple[int, ...] = ()
        """Objectives that no job has although all sources have been read, by their place in the configuration."""
        self._log = structlog.get_logger()

    def configure(self, config: Config, sources: Mapping[str, ConfiguredSource]) -> None:
        """Takes up a configuration; the next page follows it."""
        with self._lock:
            self._config, self._sources = config, sources
            self._withheld = frozenset()
            self._told_unmatched = False
            self._configured = True

    def publish(self) -> None:
        """Makes a page of all that is committed."""
        self._learn()
        with self._lock, self._ledger.locked():
            changed = self._ledger.drain()
            try:
                self._take_in(changed)
            except BaseException:
                self._configured = True  # nothing that had changed is lost: the next page is made of everything
                raise
        self._exposition.publish()

    def _take_in(self, changed: Changed) -> None:
        changed.everything, self._configured = changed.everything or self._configured, False
        withheld, unreadable = self._to_withhold(), self._unreadable_scopes()
        if (withheld, unreadable) != (self._withheld, self._unreadable):
            self._withheld, self._unreadable, changed.everything = withheld, unreadable, True
        self._update(changed)
        self._hold_unobserved()
        self._count_objectives()
        self._metrics.series(self._exposition.series_by_family(), self._limit())
        if self._ledger.last_commit is not None:
            self._metrics.committed(self._ledger.last_commit, self._ledger.size())
        self._published = self._monotonic()

    def _learn(self) -> None:
        """Looks at the past of the jobs that will be shown, a few at a time, so that polls can commit meanwhile."""
        due = [job for job in self._ledger.changed() if self._is_shown(job) and self._learning.is_due(job)]
        for start in range(0, len(due), LEARN_BATCH):
            if start:
                self._sleep(YIELD_SECONDS)  # who has waited for the lock gets it only if nobody wants it at once
            with self._ledger.locked():
                for job in due[start : start + LEARN_BATCH]:
                    self._learning.of(self._ledger.committed.jobs.get(job.key, job))

    def publish_throttled(self) -> None:
        """Makes a page unless one was made a moment ago: catching up must not make one for every window."""
        if self._monotonic() - self._published >= MIN_PUBLISH_INTERVAL:
            self.publish()

    def tick(self) -> None:
        """Called every second or so: releases what is due, and makes a page if one is due."""
        released = self._release()
        with self._lock:
            overdue = self._monotonic() - self._published >= REFRESH or self._to_withhold() != self._withheld
        if released or overdue:
            self.publish()

    def _limit(self) -> int:
        return self._config.metrics.max_series if self._config else 0

    def _to_withhold(self) -> frozenset[str]:
        """Sources whose counters are not served yet, because no poll has been complete since the start."""
        longest = self._config.metrics.startup_hold if self._config else 0.0
        if self._monotonic() - self._started >= longest:
            late = self._ledger.starting() & self._withheld
            if late:
                self._log.warning("counters served as restored: no poll has been complete yet", sources=sorted(late))
            return frozenset()
        return frozenset(self._ledger.starting() & self._sources.keys())

    def _unreadable_scopes(self) -> frozenset[tuple[str, str]]:
        """Source and name of scopes that could not be read last: nothing can be expected of their jobs to be seen."""
        states = ((name, self._ledger.source(name)) for name in self._sources)
        return frozenset(
            (name, word) for name, state in states for word, scope in state.scopes.items() if not scope.readable
        )

    def _update(self, changed: Changed) -> None:
        jobs = self._ledger.committed.jobs
        wanted = {key for key, job in jobs.items() if self._is_shown(job)} if changed.everything else self._shown_jobs
        if changed.everything:
            removed, keys = self._shown_jobs - wanted, wanted
        else:
            keys = {key for key in changed.jobs if key in jobs and self._is_shown(jobs[key])}
            removed = changed.jobs - keys
        self._shown_jobs = (self._shown_jobs | keys) - removed
        views = self._views(keys)
        self.views = {key: view for key, view in self.views.items() if key not in removed} if removed else self.views
        self.views.update({view.state.key: view for view in views})
        gone = self._shown_sources - self._sources.keys()
        self._shown_sources = set(self._sources)
        self._exposition.update(
            jobs=views,
            removed_jobs=removed,
            sources=[self._ledger.source(name) for name in self._sources],
            removed_sources=gone,
            exporter=self._ledger.committed.exporter,
        )

    def _is_shown(self, job: JobState) -> bool:
        """Whether a job's series are served."""
        source = self._sources.get(job.source)
        return source is not None and source.rules.shows(job)

    def _views(self, keys: Iterable[int]) -> list[JobView]:
        open_runs: dict[int, list[OpenRun]] = {}
        for name in self._sources:
            for run in self._ledger.open_runs(name):
                open_runs.setdefault(run.job, []).append(run)
        return [self._safe_view(self._ledger.committed.jobs[key], open_runs.get(key, [])) for key in sorted(keys)]

    def _safe_view(self, job: JobState, open_runs: Sequence[OpenRun]) -> JobView:
        """Return what is shown of a job; without its expectations where they cannot be made, which is logged once."""
        try:
            view = self.view(job, open_runs)
        except Exception as error:  # noqa: BLE001  # one job must not keep all others off the page
            if job.key not in self._without_expectations:
                self._without_expectations.add(job.key)
                names = {"source": job.source, "project": job.project, "job_name": job.name}
                self._log.error("the expectations of a job cannot be made", **names, exc_info=error)
            rules = self._sources[job.source].rules
            return JobView(
                state=job,
                active=active_of((run.state, run.origin if run.start is None else run.start) for run in open_runs),
                results=rules.results,
                has_steps=rules.steps != "off",
                step_histograms=self._ledger.step_histograms,
                withheld=job.source in self._withheld,
            )
        self._without_expectations.discard(job.key)
        return view

    def view(self, job: JobState, open_runs: Sequence[OpenRun]) -> JobView:
        """What is shown of a job."""
        source = self._sources[job.source]
        config = self._config
        objective = objective_of(config, job) if config else None
        expected = expectation(job, objective, self._learning.of(job), open_runs)
        if expected.unparsed:
            self._warn_of_schedule(job, expected.schedule)
        told = escalation(config, source.settings, objective) if config else Escalation()
        active = active_of((run.state, run.origin if run.start is None else run.start) for run in open_runs)
        failed = job.last_failure.run_id if job.last_failure else ""
        external_url = config.web.external_url if config else ""
        watched = (job.source, job.job.scope) not in self._unreadable
        return JobView(
            state=job,
            active=active,
            results=source.rules.results,
            has_steps=source.rules.steps != "off",
            freshness=expected.freshness if watched else None,
            duration_budget=expected.duration_budget,
            next_expected=expected.next_run if watched else None,
            schedule=expected.schedule,
            unparsed=expected.unparsed,
            learned=tuple(name for name in expected.learned if watched or name == "duration_budget"),
            objective=config.objectives.index(objective) if config and objective else None,
            team=told.team,
            page=told.page,
            failures_to_page=told.failures_to_page,
            labels=told.labels,
            job_url=job.job.url,
            failed_run_url=run_url(external_url, source.settings, job.job, failed) if failed else "",
            step_histograms=self._ledger.step_histograms,
            withheld=job.source in self._withheld,
        )

    def _count_objectives(self) -> None:
        """Show how many jobs each objective has; once all sources have been read, say which have none."""
        found = Counter(view.objective for view in self.views.values())
        objectives = self._config.objectives if self._config else ()
        self._metrics.objectives([found[place] for place in range(len(objectives))])
        if self._ledger.starting() & self._sources.keys():
            return
        self.unmatched = tuple(place for place in range(len(objectives)) if not found[place])
        if not self._told_unmatched:
            self._told_unmatched = True
            for place in self.unmatched:
                self._log.warning("objective matches no job", objective=place, jobs=len(self.views))

    def _warn_of_schedule(self, job: JobState, schedule: str) -> None:
        """Log once that a job's schedule is not understood."""
        if (job.key, schedule) not in self._unparsed:
            self._unparsed.add((job.key, schedule))
            names = {"source": job.source, "project": job.project, "job_name": job.name}
            expression = {"schedule": clean(schedule), "timezone": clean(job.job.timezone)}
            self._log.warning("schedule not understood; the job's next run is learned instead", **names, **expression)

    def _hold_unobserved(self) -> None:
        """Seconds found unobserved at the start are added once the restored value has been served for a while."""
        held: set[Series] = {
            ((HELD, name), UNOBSERVED, "") for name in self._sources if self._ledger.source(name).held_unobserved
        }
        new = held - self._held
        if new:
            page = self._exposition.page
            self._holds.shown(0 if page is None else page.generation + 1, new)
        self._held = held

    def _release(self) -> bool:
        """Commit what is due, then serve it. Without a state to write to it stays at 0."""
        due = self._holds.due() if self._monotonic() >= self._release_after else []
        if not due:
            return False
        try:
            self._ledger.release(due)
        except StateError as error:
            self._release_after = self._monotonic() + RELEASE_RETRY
            self._log.warning("could not commit zero-first release; series still exposed as 0", error=str(error))
            return False
        self._holds.forget(due)
        with self._lock:  # what is found meanwhile is held from its own page on
            self._held -= set(due)
        return True
