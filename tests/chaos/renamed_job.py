"""A job that is renamed again and again: to an included name, to an excluded name, and so on."""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from exporter.model import Result
from exporter.simulators.script import RunScript, make_run
from exporter.simulators.world import SimJob, SimRun
from tests.contract.harness import HOUR

EXCLUDED_PATTERN = "left-.*"
"""The setting `jobs.exclude`."""

INCLUDED_PREFIX = "kept-"
"""Prefix of the included names of the job."""

NAME_PREFIXES = (INCLUDED_PREFIX, "left-")
"""Prefixes of all names of the job."""

RENAMED_JOB_ID = "prod/renamed"
RUNS = 60
SKEW = 10.0
"""Seconds by which the exporter's times may differ from the truth."""


def included_name(number: int) -> str:
    """Return the job's name in its n-th included period. All these names differ, so no two periods share a series."""
    return f"{INCLUDED_PREFIX}{number}"


def renamed_job() -> SimJob:
    """Return the job with its first name."""
    return SimJob(job_id=RENAMED_JOB_ID, name=included_name(0), project="prod")


def generate_runs(seed: str, begin: float, end: float) -> Sequence[SimRun]:
    """Return short runs of the job, spread over a scenario. All have different ends."""
    rng = random.Random(f"{seed}/renamed")
    starts = sorted(rng.sample(range(int(begin - HOUR), int(end - HOUR), 200), RUNS))
    return [
        make_run(
            RunScript(
                job=included_name(0),
                project="prod",
                job_id=RENAMED_JOB_ID,
                created=float(start),
                end=float(start + 100),
                duration=100.0,
                result=rng.choice((Result.SUCCESS, Result.FAILURE)),
            ),
            0.0,
            -number,
        )
        for number, start in enumerate(starts, start=1)
    ]


class IncludedPeriod(msgspec.Struct):
    """A period in which the job has an included name.

    Attributes:
        name: The job's name.
        since: When the period began; earlier if the exporter did not notice the rename before it. Runs that were unread
            at a rename count under the new name.
        first_shown: When a page first had the series.
        until: When the job got an excluded name.
        watermark: The watermark of the source at that time.
        gone: When pages no longer had the series.
        counted: The highest count.
        has_minimum: Whether too low a count is a discrepancy. It is not after an older copy of the state was restored.
    """

    name: str
    since: float
    first_shown: float | None = None
    until: float | None = None
    watermark: float | None = None
    gone: float | None = None
    counted: float = 0.0
    has_minimum: bool = True


class RenamedJob:
    """The renamed job of one source: its names, and how often each may be counted."""

    def __init__(self, runs: Sequence[SimRun], since: float) -> None:
        self._ends = sorted(run.end for run in runs if run.end is not None)
        self.periods = [IncludedPeriod(included_name(0), since)]
        self._on_page: list[IncludedPeriod] = []
        self._is_included = True

    def rename(self, now: float, watermark: float | None) -> str:
        """Return the next name of the job. `watermark`: of its source."""
        self._is_included = not self._is_included
        number = len(self.periods)
        if self._is_included:
            self.periods.append(IncludedPeriod(included_name(number), now))
            return included_name(number)
        last = self.periods[-1]
        last.until, last.watermark = now, watermark
        return f"left-{number}"

    def allow_older_state(self) -> None:
        """Record that an older copy of the state was restored, which may have the job under an earlier name."""
        # Runs that this state has not read may count under any later name.
        for period in self.periods:
            period.has_minimum, period.since = False, self.periods[0].since

    def add_page(self, now: float, totals: Mapping[str, float]) -> None:
        """Record the counts on a page, by the name of the job."""
        for period in self.periods:
            total = totals.get(period.name)
            if total is None:
                if period.first_shown is not None and period.until is not None and period.gone is None:
                    period.gone = now
                continue
            if period.first_shown is None:
                period.first_shown = now
                period.since = min([period.since, *(each.since for each in self._on_page)])
            period.gone = None
            period.counted = max(period.counted, total)
        self._on_page = [period for period in self.periods if period.name in totals]

    def findings(self, now: float, baseline: float, *, exact: bool) -> Iterator[str]:
        """Yield a finding for each name with too many counted runs, or, if `exact`, with too few."""
        for period in self.periods:
            until = now if period.gone is None else period.gone
            maximum = self._completed_between(max(period.since, baseline) - SKEW, until + SKEW)
            if period.counted > maximum:
                yield f"{period.counted:g} completions counted of {period.name}, there were {maximum} at most"
            read_until = now - 2 * HOUR if period.until is None else period.watermark
            if not exact or not period.has_minimum or period.first_shown is None or read_until is None:
                continue
            minimum = self._completed_between(max(period.first_shown, baseline) + SKEW, read_until - SKEW)
            if period.counted < minimum:
                yield f"{period.counted:g} completions counted of {period.name}, there were at least {minimum}"

    def _completed_between(self, since: float, until: float) -> int:
        return max(0, bisect_right(self._ends, until) - bisect_left(self._ends, since))
