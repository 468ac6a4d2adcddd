"""The auditor of replicas: scrapes them through a proxy as one target, and compares with the ground truth."""

import bisect
import http.client
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import psycopg

from exporter.replica import FRESH
from exporter.simulators.listener import Listener
from exporter.simulators.message import Request
from exporter.simulators.request_log import RequestLog
from exporter.simulators.server import Simulator
from tests.e2e.processes import HOST
from tests.e2e.scrapes import PERSISTENT, fetch

BETWEEN_SCRAPES = 0.4
"""Seconds."""

HANDING_OVER = 1.5
"""Seconds after a lease changed hands in which the former holder learns of it."""

READ_AGAIN = tuple(prefix for prefix in PERSISTENT if "cold_starts" not in prefix)
"""Prefixes of counters that must not fall even if commits are lost: the API shows again what they count."""

AFTER_DEATH = 0.3
"""Seconds in which a killed process's last request may still be read."""


class Sent(NamedTuple):
    """A request to a simulated vendor. `family`: owner of its credential. `replica`: replica that sent it."""

    at: float
    family: str
    replica: int


class Spending:
    """All requests of all replicas, by credential."""

    def __init__(self) -> None:
        self.sent: defaultdict[str, list[Sent]] = defaultdict(list)
        self._lock = threading.Lock()
        self._waiting: dict[str, float] = {}
        self.take_overs: list[float] = []
        """Seconds from the death of an owner to the next request with its credential."""

    def add(self, family: str, replica: int) -> None:
        """Note a request."""
        with self._lock:
            now = time.monotonic()
            self.sent[family].append(Sent(now, family, replica))
            since = self._waiting.get(family)
            if since is not None and now - since > AFTER_DEATH:
                self.take_overs.append(now - since)
                del self._waiting[family]

    def died(self, replica: int) -> list[str]:
        """Record that a replica was killed. Return the credentials that it was the last to use."""
        with self._lock:
            now = time.monotonic()
            owned = [family for family, sent in self.sent.items() if sent[-1].replica == replica]
            for family in owned:
                self._waiting.setdefault(family, now)
            return owned

    def since(self, family: str, seconds: float) -> int:
        """Return how many requests were sent with a credential in the last seconds."""
        with self._lock:
            begin = time.monotonic() - seconds
            return sum(each.at >= begin for each in self.sent[family])

    def waiting(self) -> bool:
        """Return whether sources of a killed owner are not polled yet."""
        return bool(self._waiting)

    def owner(self, family: str) -> int | None:
        """Return the replica that used a credential last."""
        with self._lock:
            return self.sent[family][-1].replica if self.sent[family] else None

    def owners(self) -> Counter[int]:
        """Return how many credentials each replica used last."""
        with self._lock:
            return Counter(sent[-1].replica for sent in self.sent.values() if sent)

    def without_lease(self, holders: "Holders", numbers: Mapping[str, int]) -> Counter[tuple[str, int]]:
        """Return how many requests of each credential each replica sent while the holder of the lease sent some, too.

        `numbers`: the replica of each holder's name.
        """
        with self._lock:
            requests = [each for sent in self.sent.values() for each in sent]
        times: dict[tuple[str, int | None], list[float]] = {}
        for each in requests:
            times.setdefault((each.family, each.replica), []).append(each.at)
        found: Counter[tuple[str, int]] = Counter()
        for each in requests:
            owner = numbers.get(holders.at(each.family, each.at) or "", each.replica)
            others = times.get((each.family, owner), [])
            place = bisect.bisect_left(others, each.at - HANDING_OVER)
            both = place < len(others) and others[place] < each.at + HANDING_OVER
            found[each.family, each.replica] += owner != each.replica and both
        return +found


class Holders(threading.Thread):
    """Reads the holder of each lease from the database all the time. `connect`: returns a connection to the primary."""

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

    def at(self, family: str, when: float) -> str | None:
        """Return the replica that held the lease of a credential around a time; None if it changed."""
        first = bisect.bisect_left(self._times, when - HANDING_OVER)
        until = bisect.bisect_right(self._times, when)
        if not (0 < first < until < len(self._times)):
            return None
        found = {holders.get(family) for holders in self._holders[first - 1 : until + 1]}
        return found.pop() if len(found) == 1 else None


class _Log(RequestLog):
    def __init__(self, spending: Spending, family: str, replica: int) -> None:
        super().__init__()
        self._spending, self._family, self._replica = spending, family, replica

    def add(self, request: Request, query: str, status: int) -> None:
        super().add(request, query, status)
        self._spending.add(self._family, self._replica)


class _Door:
    """A simulator behind the proxy of one replica."""

    def __init__(self, simulator: Simulator, log: RequestLog) -> None:
        self._simulator = simulator
        self.clock, self.disruptions, self.log = simulator.clock, simulator.disruptions, log
        self.routes, self.controls = simulator.routes, simulator.controls
        self.error, self.answer = simulator.error, simulator.answer


def door(simulator: Simulator, spending: Spending, replica: int) -> Listener:
    """Return a listener of a simulator that only one replica uses, as the proxy of its requests."""
    listener = Listener((HOST, 0), _Door(simulator, _Log(spending, simulator.vendor, replica)))
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    return listener


class Scrape(NamedTuple):
    """Time of a response, and its counters."""

    ended: float
    values: Mapping[str, float]


class Auditor(threading.Thread):
    """Scrapes through the proxy, and checks that no counter of the one series falls.

    No scrape may show less than one that came more than FRESH seconds before it.
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
        """The latest page."""
        self.wrong: list[str] = []
        self.started: list[str] = []
        """Series that started with a value."""
        self.fallen: list[str] = []
        """Counters of polls and cold starts that fell. Lost commits explain that, because no API shows them again."""

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
        """Scrape once. Return the page; "" if there was none."""
        begun = time.monotonic()
        try:
            status, _, body = fetch(self._port, timeout=10)
        except (OSError, http.client.HTTPException):
            status, body = 503, b""
        if status != 200:
            self.refused += 1
            return ""
        self.last = body.decode()
        self._audit(begun, self.last)
        return self.last

    def _audit(self, begun: float, text: str) -> None:
        self.scrapes += 1
        while self._recent and self._recent[0].ended < begun - FRESH:
            for series, number in self._recent.popleft().values.items():
                self._highest[series] = max(number, self._highest.get(series, number))
        values = dict(counters(text))
        for series, number in values.items():
            if number < self._highest.get(series, number):
                findings = self.wrong if series.startswith(READ_AGAIN) else self.fallen
                findings.append(f"{series} fell from {self._highest[series]:g} to {number:g}")
                self._highest[series] = number
            if series not in self._first:
                self._first[series] = number
                if self._zero_first and number and series.startswith(("jobrun_runs_total", "jobrun_steps_total")):
                    self.started.append(f"{series} started with {number:g}")
        self._recent.append(Scrape(time.monotonic(), values))


def counters(text: str) -> Iterator[tuple[str, float]]:
    """Return all samples of counters and histograms, except sums, which are not whole numbers."""
    wanted = False
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            wanted = line.endswith((" counter", " histogram"))
        elif wanted and line[0] != "#":
            series, _, number = line.rpartition(" ")
            if "_sum{" not in series:
                yield series, float(number)
