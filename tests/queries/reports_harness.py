"""A simulated vendor, the exporter that polls it, and the reporter that answers queries, with one clock."""

import httpx

from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import PollReport
from exporter.model import Batch, Job, Result, Run, State
from exporter.queries.reader import Reader
from exporter.queries.reporter import Reporter
from exporter.queries.vendor import VendorQueries
from exporter.web import api, openapi
from exporter.web.application import WebHandlers, application
from exporter.web.request_pool import Bounds, RequestPool
from exporter.web.server import WebServer
from tests.contract.harness import NOW, Bench

HOSTILE = (
    '<script>alert("1")</script>',
    "\"';--{}",
    "a/b?c=d#e%2F",
    "two\nlines\r\n",
    "\u202eevil\u200b",
    "é" * 200,
    "x" * 1000,
    "../../etc",
    "%",
    "log",
)
"""Names and IDs that try to break a page, an address or a table."""


class ReportsHarness:
    """Commits runs without the vendor, and queries them."""

    def __init__(self, folder, vendor="snowplow", *, web=None, bounds=None, vendors=None, **settings):
        self.bench = Bench(vendor, folder, steps="all", **settings)
        self.config = self.bench.assembly.config
        self.configure(web or {})
        self._ends = []
        self.vendors = vendors or VendorQueries(self.bench.clock, steps_seconds=5.0)
        self.pool = RequestPool(bounds or Bounds(rate=10_000, burst=10_000))
        self._reporter = Reporter(
            snapshot=lambda: self.bench.publisher.snapshot,
            reader=Reader(self.bench.state),
            vendors=self.vendors,
            config=lambda: self.config,
            polled_sources=lambda: self.bench.assembly.sources,
            clock=self.bench.clock,
        )

    @property
    def reporter(self):
        """Return the reporter, with a snapshot of all committed records."""
        self.bench.publisher.publish()
        return self._reporter

    def configure(self, web=None, **changes):
        """Change the config."""
        if web is not None:
            changes["web"] = self.config.web.model_copy(update=web)
        self.config = self.config.model_copy(update=changes)
        self.bench.publisher.configure(self.config, self.bench.assembly.configured)
        self.bench.ledger.everything_changed = True

    def commit(self, *runs, jobs=(), through=None, **fields):
        """Commit a batch."""
        described = [*jobs, *(Job(job_id=name, name=name) for name in sorted({run.job_id for run in runs}))]
        known = {job.job_id: job for job in reversed(described)}
        now = self.bench.clock()
        batch = Batch(jobs=list(known.values()), runs=runs, through=through or now - 1, **fields)
        self.bench.ledger.start_poll("one", now)
        self.bench.ledger.commit("one", batch, PollContext(now=now, started=now))
        self.bench.ledger.complete_poll("one", PollContext(now=now, started=now), swept=False)
        self.bench.ledger.finish_poll("one", PollReport(ended=now, duration=1.0, outcome="success"))
        self.bench.publisher.publish()

    def client(self):
        """Return an HTTP client of the JSON API."""
        route = api.route(self.reporter, self.pool, lambda: openapi.document("test"))
        nothing = lambda: (True, "")  # noqa: E731  # a fake
        answers = WebHandlers(
            page=lambda: self.bench.exposition.page,
            scraped=lambda _: None,
            healthy=nothing,
            ready=nothing,
            reload=nothing,
            routes=[route],
        )
        server = WebServer(application(answers), "127.0.0.1", 0)
        server.start()
        client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20)
        self._ends += [client.close, lambda: server.stop(1)]
        return client

    def close(self):
        """Close everything."""
        for end in self._ends:
            end()
        self.vendors.close()
        self.pool.close()
        self.bench.close()


def ended(run_id, end=NOW + 10, result="success", job="j", length=5.0, **fields):
    """Return a completed run."""
    return Run(run_id=run_id, job_id=job, result=Result(result), start=end - length, end=end, duration=length, **fields)


def running(run_id, start=NOW, job="j", state="executing", **fields):
    """Return an active run."""
    return Run(run_id=run_id, job_id=job, state=state and State(state), start=start, **fields)
