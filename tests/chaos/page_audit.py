"""Audits every page of a scenario: no counter falls, no series starts with its value, and no secret is on the page."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tests.chaos.renamed_job import INCLUDED_PREFIX
from tests.e2e.scrapes import COUNTED, PERSISTENT

MAX_TEXTS = 20
"""Findings of which the text is kept. The others are only counted."""

UNBOUNDED = 100_000
"""The default of `metrics.max_series`, which no scenario reaches."""

ALLOWED_EXCESS = 1.1
"""Factor by which a page may exceed `metrics.max_series`."""

UNBOUNDED_FAMILIES = ("jobrun_source_", "jobrun_exporter_", "process_", "python_")
"""Prefixes of the families to which `metrics.max_series` does not apply."""


class Findings:
    """The discrepancies of a scenario: their number, and the texts of the first ones."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.number = 0
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """Add a discrepancy with the current time."""
        self.number += 1
        if len(self.texts) < MAX_TEXTS:
            self.texts.append(f"{self._now():.0f}: {text}")


class PageAuditor:
    """Audits one page after another, across restarts of the exporter.

    Attributes:
        values: The samples of the latest page. The keys are series as the page writes them.
        pages: The number of pages.
    """

    def __init__(
        self, findings: Findings, secrets: Iterable[str], *, zero_first: bool, max_series: int = UNBOUNDED
    ) -> None:
        self.values: dict[str, float] = {}
        self.pages = 0
        self._by_source: dict[str, dict[str, float]] = {}
        self._findings = findings
        self._secrets = tuple(secrets)
        self._zero_first = zero_first
        self._max_series = max_series * ALLOWED_EXCESS
        self._lines: frozenset[str] = frozenset()
        self._highest: dict[str, float] = {}

    def audit(self, text: str) -> None:
        """Add findings for a page."""
        # Only lines that differ from the page before are parsed, because a scenario has thousands of pages.
        self.pages += 1
        page = text.splitlines()
        lines = frozenset(page)
        new, old = lines - self._lines, self._lines - lines
        self._lines = lines
        self._audit_secrets("\n".join(new))
        for line in old:
            if line[0] != "#":
                series = line.rpartition(" ")[0]
                self.values.pop(series, None)
                self._by_source.get(series.partition(",")[0], {}).pop(series, None)
        for line in new:
            if line[0] != "#":
                series, _, number = line.rpartition(" ")
                self._audit_sample(series, float(number))
        self._audit_size(page)

    def _audit_size(self, page: Sequence[str]) -> None:
        """Add findings if a series is repeated, or if jobs have more series than the config allows."""
        samples = sum(not line.startswith("#") for line in page)
        if samples != len(self.values):
            self._findings.add(f"{samples} samples are on the page, of {len(self.values)} series")
        of_jobs = sum(not series.startswith(UNBOUNDED_FAMILIES) for series in self.values)
        if of_jobs > self._max_series:
            self._findings.add(f"{of_jobs} series of jobs are on the page, {self._max_series:.0f} are allowed")

    def _audit_secrets(self, text: str) -> None:
        for secret in self._secrets:
            if secret in text:
                self._findings.add(f"a page shows {secret[:4]}…")

    def _audit_sample(self, series: str, value: float) -> None:
        self.values[series] = value
        self._by_source.setdefault(series.partition(",")[0], {})[series] = value
        if not series.startswith(PERSISTENT):
            return
        before = self._highest.get(series)
        if before is None and value and self._zero_first and series.partition("{")[0] in COUNTED:
            self._findings.add(f"{series} began with {value:g}")
        if before is not None and value < before:
            self._findings.add(f"{series} fell from {before:g} to {value:g}")
        self._highest[series] = value

    def allow_older_values(self) -> None:
        """Let every counter fall once: an older copy of the state has been restored."""
        # Series that the copy has as exposed may start with their value, also those of a removed source.
        self._highest = dict.fromkeys(self._highest, 0.0)

    def value(self, family: str, **labels: str) -> float | None:
        """Return the value of a series on the latest page; None if the page does not have it."""
        return self.values.get(series_of(family, **labels))

    def by_job(self, family: str, source: str) -> Counter[str]:
        """Return the sums of a source's samples of a family by the name of the job."""
        sums: Counter[str] = Counter()
        for series, value in self._by_source.get(f'{family}{{source="{source}"', {}).items():
            sums[series.partition('job_name="')[2].partition('"')[0]] += int(value)
        return sums

    def total(self, family: str, source: str) -> float:
        """Return the sum of a source's samples of a family, without those of the renamed job."""
        samples = self._by_source.get(f'{family}{{source="{source}"', {})
        return sum(value for series, value in samples.items() if f'job_name="{INCLUDED_PREFIX}' not in series)


def series_of(family: str, **labels: str) -> str:
    """Return a series as the page writes it. The order of the labels is kept."""
    inside = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"{family}{{{inside}}}" if inside else family
