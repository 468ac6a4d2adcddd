"""A poller with fakes that record their calls in order."""

from typing import Any, cast

import msgspec
from prometheus_client import CollectorRegistry

from exporter.counting.records import JobState, OpenRun, ScopeState, SourceState
from exporter.errors import SourceError
from exporter.ledger.batch_writer import BatchStats
from exporter.ledger.poll_context import PollContext
from exporter.ledger.status import UnwrittenPolls, is_readable
from exporter.metrics.requests import RequestMetrics, SourceRequests
from exporter.model import Job
from exporter.polling.poll import Poller
from tests.core.ledger_harness import rules

STARTED = 1_000_000.0
INTERVAL = 100.0


class Clock:
    """The exporter's and the API's clock, moved by hand at the same speed."""

    def __init__(self):
        self.skew = 0.0
        self.monotonic = 50.0

    def now(self):
        return STARTED - 50.0 + self.monotonic + self.skew

    def passes(self, seconds):
        self.monotonic += seconds


class PollResult:
    """Records the name of every call, with the prefix `named`."""

    def __init__(self, events, named):
        self._events, self._named = events, named

    def __getattr__(self, word):
        return lambda *arguments, **more: self._events.append((f"{self._named}.{word}", *arguments, *more.values()))


class FakeSource:
    """`script`: for each call of `fetch`, batches to yield, errors to raise and functions of the view to call."""

    def __init__(self, events):
        self._events = events
        self.script = []
        self.answers = {}
        self.when_requested = lambda: None

    def fetch(self, view):
        for each in self.script.pop(0):
            if isinstance(each, BaseException):
                raise each
            if callable(each):
                each(view)
            else:
                yield each
                self._events.append(("source.continues", each))

    def steps(self, run):
        self._events.append(("source.steps", run.run_id))
        self.when_requested()
        answer = self.answers.get(run.run_id, ())
        if isinstance(answer, SourceError):
            raise answer
        return answer

    def seconds_per_round(self):
        return 42.0


class FakeLedger:
    """`refused`: errors by the name of the method that raises them. `queue`: rows that wait for their steps."""

    def __init__(self, events):
        self._events = events
        self.state = SourceState(name="s", identity="api")
        self.stats = BatchStats()
        self.given_up = BatchStats()
        self.queue = []
        self.jobs = []
        self.open = []
        self.refused = {}
        self.reports = []

    def _do(self, name, *arguments):
        self._events.append((f"ledger.{name}", *arguments))
        if name in self.refused:
            raise self.refused[name]

    def start_poll(self, source, now):
        self._do("start_poll", source, now)

    def commit(self, source, batch, poll_context):
        self._do("commit", source, batch, poll_context)
        return self.stats

    def expire_open_runs(self, source, poll_context, *, grace):
        self._do("expire_open_runs", source, poll_context, grace)
        return self.given_up

    def complete_poll(self, source, poll_context, *, swept):
        self._do("complete_poll", source, poll_context, swept)

    def shift_baseline(self, source, seconds, now, *, again):  # noqa: ARG002  # required by the interface
        self._do("shift_baseline", source, seconds, now)

    def pending_steps(self, source, now, limit):
        self._do("pending_steps", source, now, limit)
        return self.queue[:limit]

    def commit_steps(self, source, row, steps, poll_context):
        self._do("commit_steps", source, row.run.run_id, steps, poll_context)
        self.queue.remove(row)

    def record_missing_steps(self, source, row, poll_context):
        self._do("record_missing_steps", source, row.run.run_id, poll_context)
        self.queue.remove(row)

    def record_steps_error(self, source, row, poll_context):
        self._do("record_steps_error", source, row.run.run_id, poll_context)
        self.queue.remove(row)

    def record_up(self, source, _now, *, read):
        self._do("record_up", source, read)
        self.state.status = msgspec.structs.replace(self.state.status, up=read and is_readable(self.state))

    def skip_polls(self, source, polls, _now):
        self._do("skip_polls", source, polls)

    def finish_poll(self, source, report):
        self._do("finish_poll", source)
        self._record(report)

    def keep_poll(self, source, report):
        self._do("keep_poll", source)
        self._record(report)

    def _record(self, report):
        self.reports.append(report)
        polls = UnwrittenPolls(self.state.status).after(
            report, up=is_readable(self.state), pending_steps=len(self.queue)
        )
        polls.write_to(self.state)

    def source(self, name):
        return {"s": self.state}[name]

    def jobs_of(self, source):
        return {"s": self.jobs}[source]

    def open_runs(self, source, scope=None):
        return [run for run in {"s": self.open}[source] if scope in {None, run.scope}]


class PollHarness:
    """The poller of a source `s`, and its environment."""

    def __init__(self, *, sweep_interval=None, **changes):
        self.events = []
        self.clock = Clock()
        self.source = cast("Any", FakeSource(self.events))
        self.ledger = cast("Any", FakeLedger(self.events))
        self.poller = Poller(
            rules(**{"poll_interval": INTERVAL, **changes}),
            self.source,
            self.ledger,
            SourceRequests("s", RequestMetrics(CollectorRegistry())._metrics),
            api_clock=self.clock,  # type: ignore[arg-type]  # a clock that tests set
            monotonic=lambda: self.clock.monotonic,
            sweep_interval=sweep_interval,
            publisher=PollResult(self.events, "publisher"),
        )

    def poll(self, *script, **how):
        """Poll these batches; return the outcome. Earlier calls are forgotten."""
        self.events.clear()
        self.source.script = [list(script)]
        return self.poller.poll(**how)

    def result(self, *words):
        """Return the recorded calls of these names."""
        return [event for event in self.events if event[0] in words]

    @property
    def report(self):
        """Return what the last poll reported."""
        return self.ledger.reports[-1]

    @property
    def status(self):
        """Return the source's status."""
        return self.ledger.state.status

    def poll_context(self, after=0.0, started=0.0):
        """Return the context of a time and of a poll's start, in seconds after the start."""
        return PollContext(now=STARTED + after, started=STARTED + started)


def scope(*, readable=True, watermark=None):
    return ScopeState(baseline=STARTED, readable=readable, watermark=watermark)


def job(key, *, gone=False):
    describe_url = Job(job_id=f"j{key}", name="j")
    return JobState(key=key, source="s", job=describe_url, project="", name="j", discovered=0, baseline=0, gone=gone)


def open_run(run_id):
    return OpenRun(run_id=run_id, job=1, job_id="j", scope="", state=None, origin=0.0)
