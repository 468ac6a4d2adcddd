"""A ledger on a real state without a source: tests provide the batches."""

import sqlite3
from itertools import count
from pathlib import Path
from typing import ClassVar

import msgspec

from exporter.counting.counters import CountingRules
from exporter.counting.records import SourceState
from exporter.counting.rules import SourceRules
from exporter.errors import StateError
from exporter.ledger.ledger import EXPIRY_GRACE, Ledger
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import PollReport
from exporter.model import Batch, Job, Result, Run
from exporter.state.connections import Pool
from exporter.state.leases import Leases
from exporter.state.opening import OpenedState, open_state
from exporter.state.postgres import PostgresStore

BASELINE = 1_000_000.0
BUCKETS = (10.0, 60.0)
STEP_BUCKETS = (5.0, 50.0)
RUNS = "jobrun_runs_total"
DURATIONS = "jobrun_run_duration_seconds"
RESULTS = (Result.SUCCESS, Result.FAILURE, Result.UNKNOWN)


def rules(**changes):
    fields = {
        "name": "s",
        "identity": "api one",
        "results": RESULTS,
        "has_attempts": False,
        "steps": "all",
        "reopens": False,
        "max_run_age": 7 * 86400.0,
        "reach": 7 * 86400.0,
        "poll_interval": 60.0,
        "settle": 60.0,
        "include": (".*",),
        "exclude": (),
        "max_series": 100_000,
        "series_of": lambda job, _steps: 0 if job.gone or job.folded else sum(map(len, job.counts.values())),
        "run_buckets": lambda _job: BUCKETS,
        "has_objective": lambda _job: False,
        **changes,
    }
    return SourceRules(**fields)


def run(run_id="r", **fields):
    if fields.get("result") is not None and "end" in fields and "start" in fields:
        fields.setdefault("duration", fields["end"] - fields["start"])
    return Run(**{"run_id": run_id, "job_id": "j", **fields})


def ended(run_id="r", end=BASELINE + 100, length=30.0, result=Result.SUCCESS, **fields):
    return run(run_id, result=result, start=end - length, end=end, **fields)


def success(now):
    return PollReport(ended=now, duration=1.0, outcome="success")


class Failing(sqlite3.Connection):
    """A database whose commits fail while `fails` is set."""

    fails = False
    opened: ClassVar[list["Failing"]] = []

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        Failing.opened.append(self)

    def execute(self, sql, *arguments):
        if sql == "COMMIT" and Failing.fails:
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *arguments)


class FailingPool(Pool):
    """Connections whose commits fail while `Failing.fails` is set, and get no response while `loses` is set."""

    loses = False

    def _commit(self, connection):
        if Failing.fails:
            raise StateError("refused")
        super()._commit(connection)
        if FailingPool.loses:
            raise StateError("no response to COMMIT")


HOLDERS = count(1)


def open_shared(url):
    """Open a state in PostgreSQL as a new replica, which takes over the source of one that was killed."""
    pool = FailingPool(url)
    leases = Leases(pool, f"replica-{next(HOLDERS)}", lambda: 0.0)
    store = PostgresStore(pool, leases)
    leases.create([("s", msgspec.json.encode(SourceState(name="s", identity="api one")))])
    with pool.session() as session:
        session.execute("UPDATE leases SET until = now() - interval '1 s'")
    assert leases.take(["s"]) is not None
    return OpenedState(store=store, loaded=store.load(), cold_start="new" if store.is_new else "")


class LedgerHarness:
    """One source's ledger; `open` again for a restart. `path`: of a file, or the URL of a database."""

    def __init__(self, path, *, released=True, **changes):
        self.path = path
        self.now = BASELINE
        self.changes = changes
        self.released = released
        self.open()

    def open(self, **changes):
        self.changes.update(changes)
        self.ledger = Ledger(self._open_state)
        self.ledger.load()
        self.configure()
        if not isinstance(self.path, Path):
            self.ledger.reload(["s"])  # as a replica does after it took a lease

    def _open_state(self):
        if not isinstance(self.path, Path):
            return open_shared(self.path)
        return open_state(self.path, lambda: self.now, lambda *a, **k: sqlite3.connect(*a, factory=Failing, **k))

    def configure(self, **changes):
        self.changes.update(changes)
        counting = CountingRules(step_buckets=STEP_BUCKETS, zero_first=not self.released)
        self.ledger.configure({"s": rules(**self.changes)}, counting, "on")

    def active(self, job_id="j"):
        """Return the number of a job's active runs, as its gauges show it."""
        return sum(run.job == self.job(job_id).key for run in self.ledger.open_runs("s"))

    def reopen(self, **changes):
        self.close()
        self.open(**changes)

    def close(self):
        Failing.fails = FailingPool.loses = False
        self.ledger.close()

    @property
    def poll_context(self):
        return PollContext(now=self.now, started=self.started)

    started = BASELINE

    def poll(self, *batches, advance=60.0, swept=False, failed=False):
        """A poll that reads these batches; return what was recorded. `failed`: some requests failed."""
        self.begin()
        stats = [self.ledger.commit("s", batch, self.poll_context) for batch in batches]
        stats.append(self.ledger.expire_open_runs("s", self.poll_context, grace=EXPIRY_GRACE if failed else 0.0))
        self.ledger.complete_poll("s", self.poll_context, swept=swept)
        self.ledger.finish_poll("s", success(self.now))
        self.now += advance
        return stats

    def begin(self):
        self.started = self.now
        self.ledger.start_poll("s", self.now)

    def read(self, *runs, jobs=None, through=None, **fields):
        """Poll one batch of these runs; return what was recorded."""
        describe_url = [Job(job_id=job, name=job) for job in sorted({each.job_id for each in runs})]
        batch = Batch(
            jobs=describe_url if jobs is None else jobs,
            runs=runs,
            through=self.now - 60 if through is None else through,
            **fields,
        )
        return self.poll(batch)[0]

    def job(self, job_id="j"):
        return self.jobs()[job_id]

    def jobs(self):
        """Return the records of all jobs by ID, excluded ones too."""
        return {job.job.job_id: job for job in self.ledger.committed.of_source("s").values()}

    def counts(self, job_id="j", family=RUNS):
        job = self.jobs().get(job_id)
        found = job.counts.get(family, {}) if job else {}
        return {key: count.value for key, count in found.items() if count.value}

    def total(self, job_id="j"):
        return sum(self.counts(job_id).values())

    def row(self, run_id="r"):
        return self.ledger.rows("s", [run_id]).get(run_id)
