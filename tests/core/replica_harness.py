"""Replicas on one PostgreSQL without daemons: their ledgers and leases, and failures of the database."""

import msgspec

from exporter.counting.counters import CountingRules
from exporter.counting.records import SourceState
from exporter.errors import StateError
from exporter.ledger.ledger import Ledger
from exporter.ledger.poll_context import PollContext
from exporter.metrics.families import POLLS
from exporter.metrics.zero_first import ZeroFirst
from exporter.model import Batch, Job, Result
from exporter.replica import Handlers, Replica
from exporter.state.connections import Pool
from exporter.state.leases import Leases
from exporter.state.opening import OpenedState
from exporter.state.postgres import PostgresStore
from exporter.state.postgres_schema import MIGRATIONS
from tests.core.ledger_harness import rules, run

TABLES = ("leases", "jobs", "sources", "scopes", "runs")

FAMILY = "jobrun_runs_total"


class LosingPool(Pool):
    """Connections that may refuse a COMMIT, or lose its response."""

    fails = loses = False

    def _commit(self, connection):
        if self.fails:
            raise StateError("refused")
        super()._commit(connection)
        if self.loses:
            raise StateError("no answer")


class FailingStore(PostgresStore):
    """A state that may refuse to return rows of runs."""

    fails = False

    def runs(self, source, run_ids):
        if self.fails:
            raise StateError("refused")
        return super().runs(source, run_ids)


class ReplicaLedger:
    """A ledger on the shared state, with leases of its own and a clock that is moved."""

    def __init__(self, url, name, sources=("s", "other"), *, migrations=MIGRATIONS, steps="off", api="api"):
        self.pool = LosingPool(url)
        self.time = 0.0
        self.request_ages = []
        self.leases = Leases(self.pool, name, lambda: self.time, len(migrations))
        self.store = FailingStore(self.pool, self.leases, migrations=migrations)
        self.leases.create((each, msgspec.json.encode(SourceState(name=each, identity=api))) for each in sources)
        loaded = self.store.load()
        self.ledger = Ledger(lambda: OpenedState(store=self.store, loaded=loaded))
        self.ledger.load()
        counting = CountingRules(step_buckets=(10.0,))
        named = {each: rules(name=each, identity=api, steps=steps) for each in sources}
        self.ledger.configure(named, counting, "auto")
        self.ledger.reload(sources)

    def take(self, *sources):
        self.inherited_ages = self.leases.take(sources)
        if self.inherited_ages is not None:
            self.ledger.reload(sources)
        return self.inherited_ages is not None

    def renew(self):
        self.leases.renew(lambda _source: self.request_ages)

    def hand_back(self, *sources):
        self.leases.hand_back(sources, lambda _source: self.request_ages)

    def poll(self, *ids, source="s", now=1000.0, end=20.0, result=Result.SUCCESS, started=0.0, through=None):
        self.ledger.start_poll(source, started)
        runs = [run(each, start=10.0, end=end, result=result) for each in ids]
        batch = Batch(runs=runs, jobs=[Job(job_id="j", name="j")], through=now if through is None else through)
        self.ledger.commit(source, batch, PollContext(now=now, started=now))
        self.ledger.complete_poll(source, PollContext(now=now, started=now), swept=False)

    def successes(self, source="s"):
        jobs = [job for job in self.ledger.committed.jobs.values() if job.source == source]
        return sum(count.value for job in jobs for key, count in job.counts[FAMILY].items() if key == "success")


class Member:
    """A replica whose daemon does nothing, with a clock that is moved."""

    def __init__(self, url, name, *, steps="off", api="api", groups=("s",), sources=("s", "other")):
        self.parts = ReplicaLedger(url, name, sources, steps=steps, api=api)
        self.ledger, self.leases = self.parts.ledger, self.parts.leases
        self.groups = [*groups]
        self.published = 0
        handlers = Handlers(
            groups=lambda: [frozenset({each}) for each in self.groups],
            identities=lambda: dict.fromkeys(sources, api),
            request_ages=lambda _name: (),
            start_polls=lambda _names, _ages: None,
            end_polls=lambda _names: None,
            is_idle=lambda _name: True,
            publish=self.publish,
            generation=lambda: 0,
        )
        boottime = self.leases.now
        self.zero_first = ZeroFirst(60.0, boottime)
        self.replica = Replica(
            self.ledger, self.leases, zero_first=self.zero_first, boottime=boottime, handlers=handlers
        )
        self.tick()

    def publish(self):
        self.published += 1

    def tick(self):
        self.parts.time += 5.0
        self.replica.renew()
        self.replica.tick()

    def series(self):
        (job,) = self.ledger.committed.jobs.values()
        return job.counts[FAMILY]["success"]

    def polls(self):
        return self.ledger.committed.sources["s"].counts[POLLS]["success"].value


def expire(admin):
    """Let all leases end."""
    admin.execute("UPDATE leases SET until = now() - interval '1 s'")


def saved(admin):
    """Return what the tables hold now, for `rewind`."""
    return [admin.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES]  # noqa: S608  # constants


def rewind(admin, kept):
    """Restore older tables, like a failover to a standby without the last commits."""
    for table, rows in zip(TABLES, kept, strict=True):
        admin.execute(f"DELETE FROM {table}")  # noqa: S608  # constants
        marks = ", ".join(["%s"] * len(rows[0])) if rows else ""
        for row in rows:
            admin.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE VALUES ({marks})", row)  # noqa: S608  # constants
