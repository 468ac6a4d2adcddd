"""A job whose name changes between included and excluded ones."""

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from exporter.model import Result
from exporter.simulators.script import RunScript, make_run
from exporter.simulators.world import SimJob, SimRun
from tests.contract.harness import HOUR

EXCLUDED = "left-.*"
"""A pattern of excluded names."""

INCLUDED = "kept-"
"""Prefix of its included names."""

RENAMED = (INCLUDED, "left-")
"""Prefix of all its names."""

JOB = "prod/renamed"
RUNS = 60
SKEW = 10.0


def included(number: int) -> str:
    """Return the job's name in its n-th included period: no two periods share a series."""
    return f"{INCLUDED}{number}"


def renamed_job() -> SimJob:
    """Return the job under its first name."""
    return SimJob(job_id=JOB, name=included(0), project="prod")


def runs_of(seed: str, begin: float, end: float) -> Sequence[SimRun]:
    """Return short runs, spread over a scenario, all with different ends."""
    dice = random.Random(f"{seed}/renamed")
    starts = sorted(dice.sample(range(int(begin - HOUR), int(end - HOUR), 200), RUNS))
    return [
        make_run(
            RunScript(
                job=included(0),
                project="prod",
                job_id=JOB,
                created=float(start),
                end=float(start + 100),
                duration=100.0,
                result=dice.choice((Result.SUCCESS, Result.FAILURE)),
            ),
            0.0,
            -number,
        )
        for number, start in enumerate(starts, start=1)
    ]


class Stretch(msgspec.Struct):
    """A period in which the job is included.

    Attributes:
        name: Its name.
        since: When it got that name; if the exporter never saw the excluded name before it, when it got the last name
            that was seen: what was unread at the change counts under the new name, as with any rename.
        shown: When a page first had its series.
        until: When it got another name; `read`: the watermark then.
        gone: When pages no longer had its series.
        counted: The highest count.
        sure: Whether nothing happened that allows a lower count.
    """

    name: str
    since: float
    shown: float | None = None
    until: float | None = None
    read: float | None = None
    gone: float | None = None
    counted: float = 0.0
    sure: bool = True


class RenamedJob:
    """The truth of the renamed job of one source."""

    def __init__(self, runs: Sequence[SimRun], since: float) -> None:
        self._ends = sorted(run.end for run in runs if run.end is not None)
        self.stretches = [Stretch(included(0), since)]
        self._on_page: list[Stretch] = []
        self.is_included = True

    def rename(self, now: float, watermark: float | None) -> str:
        """Give the job its next name."""
        self.is_included = not self.is_included
        number = len(self.stretches)
        if self.is_included:
            self.stretches.append(Stretch(included(number), now))
            return included(number)
        last = self.stretches[-1]
        last.until, last.read = now, watermark
        return f"left-{number}"

    def doubt(self) -> None:
        """Note that an older state was restored, which may know the job by an earlier name.

        What that state has not read may count under any later name.
        """
        for stretch in self.stretches:
            stretch.sure, stretch.since = False, self.stretches[0].since

    def look(self, now: float, totals: Mapping[str, float]) -> None:
        """Note a page: the counts by name of the job."""
        for stretch in self.stretches:
            total = totals.get(stretch.name)
            if total is None:
                if stretch.shown is not None and stretch.until is not None and stretch.gone is None:
                    stretch.gone = now
                continue
            if stretch.shown is None:
                stretch.shown = now
                stretch.since = min([stretch.since, *(each.since for each in self._on_page)])
            stretch.gone = None
            stretch.counted = max(stretch.counted, total)
        self._on_page = [stretch for stretch in self.stretches if stretch.name in totals]

    def wrong(self, now: float, baseline: float, *, exact: bool) -> Iterator[str]:
        """Yield where more is counted than happened under a name, or, if `exact`, less than must have been seen."""
        for stretch in self.stretches:
            until = now if stretch.gone is None else stretch.gone
            most = self._between(max(stretch.since, baseline) - SKEW, until + SKEW)
            if stretch.counted > most:
                yield f"{stretch.counted:g} completions counted of {stretch.name}, there were {most} at the most"
            read = now - 2 * HOUR if stretch.until is None else stretch.read
            if not exact or not stretch.sure or stretch.shown is None or read is None:
                continue
            least = self._between(max(stretch.shown, baseline) + SKEW, read - SKEW)
            if stretch.counted < least:
                yield f"{stretch.counted:g} completions counted of {stretch.name}, there were {least} at the least"

    def _between(self, since: float, until: float) -> int:
        return max(0, bisect_right(self._ends, until) - bisect_left(self._ends, since))
