"""Builds views of jobs, sources and the exporter for tests."""

import msgspec

from exporter.counting.records import Counted, JobState, RateLimit, ScopeState, SourceState, SourceStatus
from exporter.exposition.exposition import Exposition
from exporter.ledger.status import seed_source
from exporter.model import Job, Result
from exporter.snapshot.job import JobView
from exporter.snapshot.snapshot import Build, ExporterView, Ownership, Reload, Snapshot
from exporter.snapshot.source import SourceView

RESULTS = frozenset({Result.SUCCESS, Result.FAILURE})


def job(key=1, source="s", project="p", name="nightly", **fields):
    described = Job(job_id=f"id-{key}", name=name, project=project)
    return JobState(
        **{
            "key": key,
            "source": source,
            "project": project,
            "name": name,
            "job": described,
            "discovered": 500.0,
            "baseline": 500.0,
            **fields,
        }
    )


def view(state, **fields):
    return JobView(**{"state": state, "results": RESULTS, **fields})


def full_source():
    """Return a view of a source with a value for every metric."""
    status = SourceStatus(
        up=True,
        outcome="success",
        last_poll=900.0,
        last_poll_duration=2.5,
        last_success=900.0,
        interval=60.0,
        pending_steps=2,
        rate_limit=RateLimit(limit=100, remaining=50, reset=1000.0),
        credential_expiry=5000.0,
    )
    scopes = {"a": ScopeState(baseline=500.0, watermark=800.0), "b": ScopeState(baseline=500.0, readable=False)}
    state = SourceState(name="s", identity="api", baseline=500.0, scopes=scopes, status=status)
    seed_source(state)
    return SourceView(state=state, provider="snowplow", api_url="https://api.example.com", jobs=7)


def full_exporter():
    """Return the view of an exporter with a value for every metric."""
    record = Counted()
    count(record, "jobrun_exporter_state_cold_starts_total", "new")
    return ExporterView(
        state=record,
        build=Build(version="1", revision="abc", python_version="3.11"),
        reload=Reload(applied=900.0),
        ownership=Ownership(
            replica="a", replicas=2, sources=frozenset({"s"}), taken={"s": 1}, lost=0, last_commit=900.0
        ),
        last_commit=900.0,
        state_size=4096,
        objective_jobs=(2, 0),
        series_limit=100,
        series={"jobrun_runs_total": 5},
    )


def lines_of(page, family, *, openmetrics=False):
    text = bytes(page.openmetrics if openmetrics else page.text).decode()
    return [line for line in text.splitlines() if line.startswith((f"{family}{{", f"{family}_", f"{family} "))]


def count(state, family, *labels, amount=1.0, released=True):
    """Count, and expose the series at its value."""
    series = state.count(family, *labels, amount=amount)
    series.released = released
    return series


def distribution(state, family, *labels, bounds):
    """Return a histogram series that is exposed at its value."""
    series = state.distribution(family, *labels, bounds=bounds)
    series.released = True
    return series


class Pages:
    """An exposition, and the snapshot of its next page."""

    def __init__(self, registry, zero_first):
        self.now = 1000.0
        self.exposition = Exposition(registry, zero_first, monotonic=lambda: self.now)
        self.snapshot = Snapshot()

    def __getattr__(self, name):
        return getattr(self.exposition, name)

    def update(self, *, jobs=(), removed_jobs=(), sources=(), removed_sources=(), exporter=None):
        """Change the snapshot."""
        known, named = dict(self.snapshot.jobs), dict(self.snapshot.sources)
        known |= {view.state.key: view for view in jobs}
        named |= {source.name: SourceView(state=source) for source in sources}
        self.snapshot = msgspec.structs.replace(
            self.snapshot,
            jobs={key: view for key, view in known.items() if key not in removed_jobs},
            sources={name: view for name, view in named.items() if name not in removed_sources},
            exporter=self.snapshot.exporter if exporter is None else ExporterView(state=exporter),
        )

    def publish(self):
        """Render the snapshot."""
        self.snapshot = msgspec.structs.replace(self.snapshot, generation=self.snapshot.generation + 1)
        return self.exposition.render(self.snapshot)
