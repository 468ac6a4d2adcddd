"""Checks every page: no counter falls, no series starts with its value, nothing secret is on it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tests.chaos.renamed import INCLUDED
from tests.e2e.scrapes import COUNTED, PERSISTENT

MOST_SHOWN = 20
"""Discrepancies of one scenario that are shown; the others are counted."""


UNBOUNDED = 100_000
"""The default of `metrics.max_series`: more than any scenario has."""

TENTH_OVER = 1.1
"""The page may exceed the bound by a tenth."""

NOT_OF_JOBS = ("jobrun_source_", "jobrun_exporter_", "process_", "python_")
"""Prefixes of the names of metrics that the bound does not include."""


class Findings:
    """What is wrong, and when."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.number = 0
        self.shown: list[str] = []

    def add(self, what: str) -> None:
        self.number += 1
        if len(self.shown) < MOST_SHOWN:
            self.shown.append(f"{self._now():.0f}: {what}")


class Watch:
    """The scraper of one scenario, which outlives the processes that it scrapes.

    Attributes:
        values: The samples of the latest page, by name and labels as written.
        scrapes: The number of pages.
    """

    def __init__(
        self, findings: Findings, forbidden: Iterable[str], *, zero_first: bool, max_series: int = UNBOUNDED
    ) -> None:
        self.values: dict[str, float] = {}
        self.scrapes = 0
        self._groups: dict[str, dict[str, float]] = {}
        self._findings = findings
        self._forbidden = tuple(forbidden)
        self._zero_first = zero_first
        self._most = max_series * TENTH_OVER
        self._lines: frozenset[str] = frozenset()
        self._highest: dict[str, float] = {}

    def take(self, text: str) -> None:
        """Check a page; only its changes, as a scenario has thousands of pages."""
        self.scrapes += 1
        page = text.splitlines()
        lines = frozenset(page)
        new, old = lines - self._lines, self._lines - lines
        self._lines = lines
        self._search("\n".join(new))
        for line in old:
            if line[0] != "#":
                series = line.rpartition(" ")[0]
                self.values.pop(series, None)
                self._groups.get(series.partition(",")[0], {}).pop(series, None)
        for line in new:
            if line[0] != "#":
                series, _, number = line.rpartition(" ")
                self._sample(series, float(number))
        self._measure(page)

    def _measure(self, page: Sequence[str]) -> None:
        """Check that no series is repeated, and that there are no more of jobs than the configuration allows."""
        samples = sum(not line.startswith("#") for line in page)
        if samples != len(self.values):
            self._findings.add(f"{samples} samples are on the page, of {len(self.values)} series")
        of_jobs = sum(not series.startswith(NOT_OF_JOBS) for series in self.values)
        if of_jobs > self._most:
            self._findings.add(f"{of_jobs} series of jobs are on the page, {self._most:.0f} are allowed")

    def _search(self, text: str) -> None:
        for mark in self._forbidden:
            if mark in text:
                self._findings.add(f"a page shows {mark[:4]}…")

    def _sample(self, series: str, value: float) -> None:
        self.values[series] = value
        self._groups.setdefault(series.partition(",")[0], {})[series] = value
        if not series.startswith(PERSISTENT):
            return
        before = self._highest.get(series)
        if before is None and value and self._zero_first and series.partition("{")[0] in COUNTED:
            self._findings.add(f"{series} began with {value:g}")
        if before is not None and value < before:
            self._findings.add(f"{series} fell from {before:g} to {value:g}")
        self._highest[series] = value

    def forget(self) -> None:
        """Forget all values: an older copy of the state has been restored.

        Series that the copy has as exposed may start with their value, also those of a removed source.
        """
        self._highest = dict.fromkeys(self._highest, 0.0)

    def value(self, family: str, **labels: str) -> float | None:
        """Return a sample of the latest page."""
        return self.values.get(series_of(family, **labels))

    def by_job(self, family: str, source: str) -> Counter[str]:
        """Return a source's samples of a family, summed by the name of the job."""
        sums: Counter[str] = Counter()
        for series, value in self._groups.get(f'{family}{{source="{source}"', {}).items():
            sums[series.partition('job_name="')[2].partition('"')[0]] += int(value)
        return sums

    def total(self, family: str, source: str) -> float:
        """Return the sum of a source's samples of a family without those of the renamed job."""
        samples = self._groups.get(f'{family}{{source="{source}"', {})
        return sum(value for series, value in samples.items() if f'job_name="{INCLUDED}' not in series)


def series_of(family: str, **labels: str) -> str:
    """Return a series as the page writes it, with these labels in this order."""
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{family}{{{inside}}}" if inside else family
