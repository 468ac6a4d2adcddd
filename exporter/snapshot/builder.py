"""Builds snapshots: joins committed records with the config. Unchanged views are reused."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

import msgspec
import structlog

from exporter.config import Config
from exporter.config.source import SourceSettings
from exporter.config.values import MaxSeverity
from exporter.counting.labels import clean
from exporter.counting.records import JobState, OpenRun, SourceState
from exporter.counting.rules import SourceRules
from exporter.links import run_url
from exporter.snapshot.expectations import NO_OBJECTIVE, expectation, objective_of
from exporter.snapshot.job import JobView, active_of
from exporter.snapshot.snapshot import ExporterView, Snapshot
from exporter.snapshot.source import SourceView


class ConfiguredSource(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a source's config that views need. `api_url`: address of the source's API."""

    settings: SourceSettings
    rules: SourceRules
    api_url: str = ""


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger has committed, from which a snapshot is built.

    Attributes:
        exporter: The view of the exporter, as far as the ledger knows it.
        open_runs: Active runs by source, oldest first; the same tuple while nothing changes.
        changed: Keys of the jobs that changed since the previous snapshot; None if all may have changed.
        starting: Sources that have had no complete poll since the process started.
        polled: Sources that have been polled since the process started.
    """

    jobs: Mapping[int, JobState]
    sources: Mapping[str, SourceState]
    exporter: ExporterView
    open_runs: Mapping[str, tuple[OpenRun, ...]] = {}
    changed: Collection[int] | None = None
    starting: frozenset[str] = frozenset()
    polled: frozenset[str] = frozenset()
    step_histograms: bool = True


class ViewBuilder:
    """Builds views of records for a config."""

    def __init__(self, config: Config, sources: Mapping[str, ConfiguredSource]) -> None:
        self.config = config
        self.sources = sources
        self._log = structlog.get_logger()
        self._unparsed: set[tuple[int, str]] = set()
        self._without_expectations: set[int] = set()

    def is_served(self, job: JobState) -> bool:
        """Return whether a job's series are served."""
        source = self.sources.get(job.source)
        return source is not None and source.rules.serves(job)

    def job(self, job: JobState, open_runs: Sequence[OpenRun] = (), *, watched: bool = True) -> JobView:
        """Return the view of a job. `watched`: whether its scope is readable, so that new runs are seen."""
        rules = self.sources[job.source].rules
        bare = JobView(
            state=job,
            active=active_of((run.state, run.origin if run.start is None else run.start) for run in open_runs),
            results=rules.results,
            has_steps=rules.steps != "off",
        )
        try:
            view = self._with_expectations(bare, open_runs, watched=watched)
        except Exception as error:  # noqa: BLE001  # an error of one job must not remove all others from the page
            if job.key not in self._without_expectations:
                self._without_expectations.add(job.key)
                self._log.error("expectations of a job cannot be computed", **_names(job), exc_info=error)
            return bare
        self._without_expectations.discard(job.key)
        return view

    def _with_expectations(self, view: JobView, open_runs: Sequence[OpenRun], *, watched: bool) -> JobView:
        """Return the view with the job's expectations, and with what the config says about its alerts."""
        job, source = view.state, self.sources[view.state.source]
        objective = objective_of(self.config, job)
        expected = expectation(job, objective, open_runs)
        if expected.unparsed and (job.key, expected.schedule) not in self._unparsed:
            self._unparsed.add((job.key, expected.schedule))
            expression = {"schedule": clean(expected.schedule), "timezone": clean(job.job.timezone)}
            message = "schedule not understood; the job's next run is learned instead"
            self._log.warning(message, **_names(job), **expression)
        if not watched:  # a run would not be seen, so none is expected
            learned = tuple(name for name in expected.learned if name == "duration_budget")
            expected = msgspec.structs.replace(expected, freshness=None, next_expected=None, learned=learned)
        wanted = objective or NO_OBJECTIVE
        failed = job.last_failure.run_id if job.last_failure else ""
        external_url = self.config.web.external_url
        return msgspec.structs.replace(
            view,
            **msgspec.structs.asdict(expected),
            objective=None if objective is None else self.config.objectives.index(objective),
            team=wanted.team or source.settings.team,
            page=max(wanted.page, source.settings.page, key=get_args(MaxSeverity).index),
            failures_to_page=wanted.failures_to_page,
            labels=tuple((name, wanted.labels.get(name, "")) for name in self.config.label_names()),
            job_url=job.job.url,
            failed_run_url=run_url(external_url, source.settings, job.job, failed) if failed else "",
        )

    def source(self, state: SourceState) -> SourceView:
        """Return the view of a source."""
        source = self.sources[state.name]
        return SourceView(
            state=state,
            provider=source.settings.type,
            api_url=source.api_url,
            configured_interval=source.settings.poll_interval,
            requests_per_minute=source.settings.requests_per_minute,
        )


class SnapshotBuilder:
    """Builds the snapshots of one config. Unchanged views are the same objects as in the previous snapshot.

    Attributes:
        latest: The latest snapshot. The first one continues the generations of the previous config's.
    """

    def __init__(self, views: ViewBuilder, latest: Snapshot) -> None:
        self.latest = latest
        self._views = views
        self._withheld: frozenset[str] = frozenset()
        self._steps_withheld: frozenset[str] = frozenset()
        self._unreadable: frozenset[tuple[str, str]] = frozenset()
        self._everything = True
        self._reported_unmatched = False
        self._log = structlog.get_logger()

    def build(self, committed: Committed, withheld: frozenset[str] = frozenset()) -> Snapshot:
        """Return the snapshot of committed records. `withheld`: sources whose counters are not served yet."""
        before = self._withheld, self._steps_withheld, self._unreadable
        ownership = committed.exporter.ownership
        self._withheld = withheld
        self._steps_withheld = ownership.steps_rewound if ownership else frozenset()
        self._unreadable = self._unreadable_scopes(committed)
        changed = committed.changed
        if self._everything or (self._withheld, self._steps_withheld, self._unreadable) != before:
            changed = None
        # If anything below raises, the next call builds everything again, so that no change is lost.
        self._everything = True
        jobs = self._jobs(committed, changed)
        self.latest = Snapshot(
            generation=self.latest.generation + 1,
            # A copy, because the ledger replaces records in its own table while readers iterate over this one.
            records=dict(committed.jobs),
            jobs=jobs,
            sources=self._sources(committed, jobs),
            exporter=self._exporter(committed, jobs),
            excluded=frozenset(self._views.config.metrics.exclude),
        )
        self._everything = False
        return self.latest

    def _unreadable_scopes(self, committed: Committed) -> frozenset[tuple[str, str]]:
        states = [committed.sources[name] for name in self._views.sources if name in committed.sources]
        return frozenset(
            (state.name, name) for state in states for name, scope in state.scopes.items() if not scope.readable
        )

    def _jobs(self, committed: Committed, changed: Collection[int] | None) -> dict[int, JobView]:
        """Return the views of all served jobs. `changed`: keys of the jobs whose views must be built again."""
        if changed is not None and not changed:
            return dict(self.latest.jobs)
        keys = committed.jobs.keys() if changed is None else committed.jobs.keys() & set(changed)
        open_runs = {key: list[OpenRun]() for key in keys if self._views.is_served(committed.jobs[key])}
        for run in (run for runs in committed.open_runs.values() for run in runs):
            if run.job in open_runs:
                open_runs[run.job].append(run)
        views = {} if changed is None else {key: view for key, view in self.latest.jobs.items() if key not in changed}
        for key, runs in open_runs.items():
            job = committed.jobs[key]
            views[key] = msgspec.structs.replace(
                self._views.job(job, runs, watched=(job.source, job.job.scope) not in self._unreadable),
                step_histograms=committed.step_histograms,
                withheld=job.source in self._withheld,
                steps_withheld=job.source in self._steps_withheld,
            )
        return dict(sorted(views.items()))

    def _sources(self, committed: Committed, jobs: Mapping[int, JobView]) -> dict[str, SourceView]:
        served_jobs = Counter(view.state.source for view in jobs.values())  # only served jobs have views
        ownership, views = committed.exporter.ownership, dict[str, SourceView]()
        for name in self._views.sources:
            if name not in committed.sources:
                continue
            view = msgspec.structs.replace(
                self._views.source(committed.sources[name]),
                jobs=served_jobs[name],
                open_runs=committed.open_runs.get(name, ()),
                polled=name in committed.polled,
                withheld=name in self._withheld,
                rewound=ownership is not None and name in ownership.rewound,
            )
            # A source is rendered again only if its view is a different object.
            before = self.latest.sources.get(name)
            views[name] = before if before is not None and _is_same(before, view) else view
        return views

    def _exporter(self, committed: Committed, jobs: Mapping[int, JobView]) -> ExporterView:
        config, sources = self._views.config, self._views.sources
        found = Counter(view.objective for view in jobs.values())
        counts = tuple(found[place] for place in range(len(config.objectives)))
        unmatched = self.latest.exporter.unmatched if self.latest.sources.keys() == sources.keys() else ()
        # Before all sources are read, the job of an objective may not have been seen yet.
        unread = committed.starting & sources.keys()
        if committed.exporter.ownership is not None:  # other replicas read most sources
            complete = {name for name, state in committed.sources.items() if state.complete}
            unread = frozenset(sources) - complete
        if not unread:
            unmatched = tuple(place for place, count in enumerate(counts) if not count)
            for place in () if self._reported_unmatched else unmatched:
                self._log.warning("objective matches no job", objective=place, jobs=len(jobs))
            self._reported_unmatched = True
        return msgspec.structs.replace(
            committed.exporter,
            objective_jobs=counts,
            unmatched=unmatched,
            series_limit=config.metrics.max_series,
        )


def _names(job: JobState) -> dict[str, str]:
    return {"source": job.source, "project": job.project, "job_name": job.name}


def _is_same(before: SourceView, now: SourceView) -> bool:
    """Return whether two views of a source are equal. Records and active runs are replaced, never changed."""
    parts = (before.state is now.state, before.open_runs is now.open_runs)
    return all(parts) and before == msgspec.structs.replace(now, state=before.state, open_runs=before.open_runs)
