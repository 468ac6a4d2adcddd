"""What is known of a job: its committed record together with what the configuration and the active runs add."""

from collections.abc import Iterable, Mapping

import msgspec

from exporter.counting.records import JobState, oldest
from exporter.model import Result, State


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job's record together with what the configuration and the active runs add to it.

    Attributes:
        state: Its committed record; never changed here.
        active: How many runs are in each open state, and the earliest of their starts if one is known.
        results: The results that its source can produce, seeded at 0.
        has_steps: Whether its runs have steps.
        freshness: Largest age of the last success, in seconds.
        duration_budget: Seconds that a run may take.
        next_expected: When the next run should start.
        schedule: In words of its vendor or of the configuration.
        unparsed: Whether nobody can tell what that means.
        learned: Which of `freshness`, `duration_budget` and `next_run` come from its past alone.
        objective: The number of the objective that it has, counted from 0.
        team: Who looks after it.
        page: The highest severity that it may page with.
        failures_to_page: Failed runs in a row after which somebody is paged.
        labels: Names and values of more labels of jobrun_job_info; every job has the same names.
        job_url: Where a person finds it.
        failed_run_url: Where a person finds its last failed run.
        step_histograms: Whether the durations of its steps are shown.
        withheld: True while its counters and histograms are not to be shown yet.
    """

    state: JobState
    active: Mapping[State, tuple[int, float | None]] = {}
    results: tuple[Result, ...] = ()
    has_steps: bool = False
    freshness: float | None = None
    duration_budget: float | None = None
    next_expected: float | None = None
    schedule: str = ""
    unparsed: bool = False
    learned: tuple[str, ...] = ()
    objective: int | None = None
    team: str = ""
    page: str = "critical"
    failures_to_page: int = 3
    labels: tuple[tuple[str, str], ...] = ()
    job_url: str = ""
    failed_run_url: str = ""
    step_histograms: bool = True
    withheld: bool = False

    @property
    def counted(self) -> bool:
        """Whether it has counters and histograms of its own."""
        return not (self.state.gone or self.state.folded)

    @property
    def gauged(self) -> bool:
        """Whether it has gauges: a job beyond the bound has none, nor has the one that stands for those."""
        return self.counted and not self.state.overflow

    def has_series(self, name: str) -> bool:
        """Return whether its counters or histograms of this name are served."""
        # Withheld counters could fall back to an older state that is restored, and look like a reset.
        return self.counted and not self.withheld and (self.step_histograms or name != "jobrun_step_duration_seconds")

    @property
    def owner(self) -> tuple[str, int]:
        """What its series belong to."""
        return "job", self.state.key

    @property
    def common_labels(self) -> tuple[str, ...]:
        """The values of the labels that all its series have."""
        return self.state.source, self.state.project, self.state.name

    @property
    def record(self) -> JobState:
        """The record that holds its counters and histograms."""
        return self.state


def active_of(begun: Iterable[tuple[State | None, float]]) -> dict[State, tuple[int, float | None]]:
    """Return `JobView.active` for active runs, given as the state of each and its start."""
    active: dict[State, tuple[int, float | None]] = {}
    for state, start in begun:
        if state is not None:
            count, earliest = active.get(state, (0, start))
            active[state] = (count + 1, oldest((earliest, start)))
    return active
