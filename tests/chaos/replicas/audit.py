"""What is recorded and audited while replicas run: requests to vendors, holders of leases, and scrapes."""

import bisect
import http.client
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import psycopg

from exporter.replica import MAX_PAGE_AGE
from exporter.simulators.listener import Listener
from exporter.simulators.message import Request
from exporter.simulators.request_log import RequestLog
from exporter.simulators.server import Simulator
from tests.e2e.processes import HOST
from tests.e2e.scrapes import PERSISTENT, fetch

BETWEEN_SCRAPES = 0.4
"""Seconds between two scrapes, and between two reads of the holders of leases."""

HANDOVER = 1.5
"""Seconds in which the former holder of a lease notices that another replica has it."""

RECOVERABLE = tuple(prefix for prefix in PERSISTENT if "cold_starts" not in prefix)
"""Prefixes of counters that must not fall even if commits are lost, because the API shows again what they count."""

AFTER_KILL = 0.3
"""Seconds after a kill in which the last request of the killed process may still arrive."""


class SentRequest(NamedTuple):
    """A request to a simulated vendor. `replica`: number of the replica that sent it."""

    at: float
    vendor: str
    replica: int


class RequestRecord:
    """The requests of all replicas. Each vendor has one credential, so they are kept by vendor.

    Attributes:
        sent: All requests, by vendor.
        take_overs: Seconds from the kill of each owner to the next request with its credential.
    """

    def __init__(self) -> None:
        self.sent: defaultdict[str, list[SentRequest]] = defaultdict(list)
        self._lock = threading.Lock()
        self._waiting: dict[str, float] = {}
        self.take_overs: list[float] = []

    def add(self, vendor: str, replica: int) -> None:
        """Record a request."""
        with self._lock:
            now = time.monotonic()
            self.sent[vendor].append(SentRequest(now, vendor, replica))
            since = self._waiting.get(vendor)
            if since is not None and now - since > AFTER_KILL:
                self.take_overs.append(now - since)
                del self._waiting[vendor]

    def owner_killed(self, replica: int) -> None:
        """Record that a replica was killed, to measure the take-over of its sources."""
        with self._lock:
            now = time.monotonic()
            for vendor, sent in self.sent.items():
                if sent[-1].replica == replica:
                    self._waiting.setdefault(vendor, now)

    def since(self, vendor: str, seconds: float) -> int:
        """Return the number of requests to a vendor in the last seconds."""
        with self._lock:
            begin = time.monotonic() - seconds
            return sum(each.at >= begin for each in self.sent[vendor])

    def waiting(self) -> bool:
        """Return whether the sources of a killed owner still wait for another replica."""
        return bool(self._waiting)

    def owners(self) -> Counter[int]:
        """Return the number of credentials that each replica was the last to use."""
        with self._lock:
            return Counter(sent[-1].replica for sent in self.sent.values() if sent)

    def without_lease(self, holders: "LeaseHolders", numbers: Mapping[str, int]) -> Counter[tuple[str, int]]:
        """Return how many requests each replica sent to each vendor while the holder of the lease sent some, too.

        `numbers`: number of the replica behind each holder's name.
        """
        with self._lock:
            requests = [each for sent in self.sent.values() for each in sent]
        times: dict[tuple[str, int | None], list[float]] = {}
        for each in requests:
            times.setdefault((each.vendor, each.replica), []).append(each.at)
        found: Counter[tuple[str, int]] = Counter()
        for each in requests:
            owner = numbers.get(holders.at(each.vendor, each.at) or "", each.replica)
            others = times.get((each.vendor, owner), [])
            place = bisect.bisect_left(others, each.at - HANDOVER)
            both = place < len(others) and others[place] < each.at + HANDOVER
            found[each.vendor, each.replica] += owner != each.replica and both
        return +found


class LeaseHolders(threading.Thread):
    """Records the holder of each lease. `connect`: returns a connection to the primary."""

    def __init__(self, connect: Callable[[], psycopg.Connection], sources: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self._connect, self._sources = connect, sources
        self._ended = threading.Event()
        self._times: list[float] = []
        self._holders: list[Mapping[str, str]] = []

    def run(self) -> None:
        while not self._ended.wait(BETWEEN_SCRAPES):
            try:
                with self._connect() as connection:
                    rows = connection.execute("SELECT source, holder FROM leases").fetchall()
            except psycopg.Error:
                rows = []
            self._holders.append({self._sources[name]: holder for name, holder in rows})
            self._times.append(time.monotonic())

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def at(self, vendor: str, when: float) -> str | None:
        """Return the name of the replica that held a vendor's lease around a time; None if that is not certain."""
        first = bisect.bisect_left(self._times, when - HANDOVER)
        until = bisect.bisect_right(self._times, when)
        if not (0 < first < until < len(self._times)):
            return None
        found = {holders.get(vendor) for holders in self._holders[first - 1 : until + 1]}
        return found.pop() if len(found) == 1 else None


class _ReplicaLog(RequestLog):
    def __init__(self, requests: RequestRecord, vendor: str, replica: int) -> None:
        super().__init__()
        self._requests, self._family, self._replica = requests, vendor, replica

    def add(self, request: Request, query: str, status: int) -> None:
        super().add(request, query, status)
        self._requests.add(self._family, self._replica)


class _RecordedSimulator:
    """A simulator with another request log."""

    def __init__(self, simulator: Simulator, log: RequestLog) -> None:
        self._simulator = simulator
        self.clock, self.disruptions, self.log = simulator.clock, simulator.disruptions, log
        self.routes, self.controls = simulator.routes, simulator.controls
        self.error, self.answer = simulator.error, simulator.answer


def listen_for(replica: int, simulator: Simulator, requests: RequestRecord) -> Listener:
    """Return a listener of a simulator that only one replica uses, so that its requests are known as its own."""
    listener = Listener((HOST, 0), _RecordedSimulator(simulator, _ReplicaLog(requests, simulator.vendor, replica)))
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    return listener


class Scrape(NamedTuple):
    """A page. `ended`: when it was received. `values`: its counters."""

    ended: float
    values: Mapping[str, float]


class ScrapeAuditor(threading.Thread):
    """Scrapes replicas through their proxy as one target, and records counters that fall.

    A counter falls if a page shows less than one that was received more than MAX_PAGE_AGE seconds before its request.

    Attributes:
        scrapes, refused: Number of pages, and of scrapes without a page.
        last: The latest page.
        findings: Counters that fell although the API shows again what they count.
        lost: Other counters that fell. Lost commits explain these falls.
        started: Series that started with a value.
    """

    def __init__(self, port: int, *, zero_first: bool) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._zero_first = zero_first
        self._ended = threading.Event()
        self._recent: deque[Scrape] = deque()
        self._highest: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self.scrapes = self.refused = 0
        self.last = ""
        self.findings: list[str] = []
        self.started: list[str] = []
        self.lost: list[str] = []

    def run(self) -> None:
        while not self._ended.wait(BETWEEN_SCRAPES):
            self.scrape()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def values(self) -> dict[str, float]:
        """Return the counters on the latest page."""
        return dict(counters(self.last))

    def scrape(self) -> str:
        """Scrape once. Return the page; "" if no replica served one."""
        started = time.monotonic()
        try:
            status, _, body = fetch(self._port, timeout=10)
        except (OSError, http.client.HTTPException):
            status, body = 503, b""
        if status != 200:
            self.refused += 1
            return ""
        self.last = body.decode()
        self._audit(started, self.last)
        return self.last

    def _audit(self, started: float, text: str) -> None:
        self.scrapes += 1
        while self._recent and self._recent[0].ended < started - MAX_PAGE_AGE:
            for series, number in self._recent.popleft().values.items():
                self._highest[series] = max(number, self._highest.get(series, number))
        values = dict(counters(text))
        for series, number in values.items():
            if number < self._highest.get(series, number):
                findings = self.findings if series.startswith(RECOVERABLE) else self.lost
                findings.append(f"{series} fell from {self._highest[series]:g} to {number:g}")
                self._highest[series] = number
            if series not in self._first:
                self._first[series] = number
                if self._zero_first and number and series.startswith(("jobrun_runs_total", "jobrun_steps_total")):
                    self.started.append(f"{series} started with {number:g}")
        self._recent.append(Scrape(time.monotonic(), values))


def counters(text: str) -> Iterator[tuple[str, float]]:
    """Yield all samples of counters and histograms without their sums, which are not whole numbers."""
    wanted = False
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            wanted = line.endswith((" counter", " histogram"))
        elif wanted and line[0] != "#":
            series, _, number = line.rpartition(" ")
            if "_sum{" not in series:
                yield series, float(number)
