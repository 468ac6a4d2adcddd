"""HTTP requests to a daemon, and the samples of its `/metrics`."""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import HOST

Series = tuple[str, ...]

PERSISTENT = (
    "jobrun_run",
    "jobrun_step",
    "jobrun_source_unobserved",
    "jobrun_source_truncated",
    "jobrun_source_steps_lost",
    "jobrun_source_unmapped",
    "jobrun_exporter_series_overflow",
    "jobrun_exporter_state_cold_starts",
)
"""Prefixes of the names of counters and histograms that a restart keeps."""

COUNTED = {
    "jobrun_runs_total": ("project", "job_name", "result"),
    "jobrun_run_duration_seconds_count": ("project", "job_name", "result"),
    "jobrun_steps_total": ("project", "job_name", "step_name", "result"),
}
"""Families that tests compare with the truth, and the labels by which they compare."""


def fetch(
    port: int, path: str = "/metrics", headers: Mapping[str, str] | None = None, method: str = "GET", timeout: float = 5
) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers and body of a response."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def page(port: int) -> str:
    """Return `/metrics` in text format; "" if the daemon does not serve it."""
    try:
        status, _, body = fetch(port)
    except (OSError, http.client.HTTPException):
        return ""
    return body.decode() if status == 200 else ""


def values(text: str) -> dict[str, float]:
    """Return all samples. The keys are series as the page writes them."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in lines}


def value(port: int, series: str) -> float | None:
    """Return the value of a series; None if the page does not have it."""
    return values(page(port)).get(series)


def counted(text: str, source: str) -> Counter[Series]:
    """Return the values of the families `COUNTED` of a source, without zeros."""
    counts: Counter[Series] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in COUNTED and sample.labels["source"] == source and sample.value:
                counts[sample.name, *(sample.labels[name] for name in COUNTED[sample.name])] = int(sample.value)
    return counts


def persistent_counters(text: str) -> Iterator[tuple[str, float]]:
    """Yield the samples of counters and histograms that a restart keeps."""
    wanted = False
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            wanted = kind in ("counter", "histogram") and name.startswith(PERSISTENT)
        elif wanted and line[0] != "#":
            series, number = line.rsplit(" ", 1)
            yield series, float(number)


class Scraper(threading.Thread):
    """Scrapes all the time, also across restarts, and records counters that fall.

    Attributes:
        scrapes: The number of pages that differed from the page before.
        falls: Each fall of a counter: the series, the value before and the value after.
        first: The first value of each series.
    """

    def __init__(self, port: int, pause: float = 0.01) -> None:
        super().__init__(daemon=True)
        self.scrapes = 0
        self.falls: list[tuple[str, float, float]] = []
        self.first: dict[str, float] = {}
        self.port = port
        self._pause = pause
        self._highest: dict[str, float] = {}
        self._stopped = threading.Event()
        self._last = ""

    def run(self) -> None:
        while not self._stopped.wait(self._pause):
            text = page(self.port)
            if text and text != self._last:
                self._last = text
                self._check(text)

    def _check(self, text: str) -> None:
        self.scrapes += 1
        for series, number in persistent_counters(text):
            before = self._highest.setdefault(series, number)
            self.first.setdefault(series, number)
            if number < before:
                self.falls.append((series, before, number))
            self._highest[series] = number

    def stop(self) -> None:
        self._stopped.set()
        self.join()
