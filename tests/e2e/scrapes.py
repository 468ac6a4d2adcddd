"""Scrapes of a daemon, as Prometheus reads them."""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.processes import HOST

Series = tuple[str, ...]

KEPT = (
    "jobrun_run",
    "jobrun_step",
    "jobrun_source_unobserved",
    "jobrun_source_truncated",
    "jobrun_source_steps_lost",
    "jobrun_source_unmapped",
    "jobrun_exporter_series_overflow",
    "jobrun_exporter_state_cold_starts",
)
"""Prefixes of the names of counters and histograms that outlive a process."""

COUNTED = {
    "jobrun_runs_total": ("project", "job_name", "result"),
    "jobrun_run_duration_seconds_count": ("project", "job_name", "result"),
    "jobrun_steps_total": ("project", "job_name", "step_name", "result"),
}
"""Families that are compared with the truth."""


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
    """Return the page in text format, "" while none is served."""
    try:
        status, _, body = fetch(port)
    except (OSError, http.client.HTTPException):
        return ""
    return body.decode() if status == 200 else ""


def values(text: str) -> dict[str, float]:
    """Return all samples by name and labels as written."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in lines}


def value(port: int, series: str) -> float | None:
    """Return one sample, None if there is none."""
    return values(page(port)).get(series)


def counted(text: str, source: str) -> Counter[Series]:
    """Return the counts of a source that can be compared with the truth, without zeros."""
    counts: Counter[Series] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in COUNTED and sample.labels["source"] == source and sample.value:
                counts[sample.name, *(sample.labels[name] for name in COUNTED[sample.name])] = int(sample.value)
    return counts


def kept_counters(text: str) -> Iterator[tuple[str, float]]:
    """Return samples of counters and histograms that outlive a process."""
    wanted = False
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            wanted = kind in ("counter", "histogram") and name.startswith(KEPT)
        elif wanted and line[0] != "#":
            series, number = line.rsplit(" ", 1)
            yield series, float(number)


class Scraper(threading.Thread):
    """Scrapes all the time, also across restarts, and records counters that fall.

    Attributes:
        scrapes: The number of complete responses.
        falls: Every series that fell: its name, the value before and after.
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
                self._take(text)

    def _take(self, text: str) -> None:
        self.scrapes += 1
        for series, number in kept_counters(text):
            before = self._highest.setdefault(series, number)
            self.first.setdefault(series, number)
            if number < before:
                self.falls.append((series, before, number))
            self._highest[series] = number

    def stop(self) -> None:
        self._stopped.set()
        self.join()
