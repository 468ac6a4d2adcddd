"""The view of a job, from which its metrics and pages are rendered."""

from collections.abc import Iterable, Mapping

from exporter.counting.names import STEP_DURATION
from exporter.counting.records import JobState, oldest
from exporter.model import Result, State
from exporter.snapshot.expectations import Expectation


class JobView(Expectation, frozen=True, kw_only=True):
    """A job's record, joined with its config, its expectations and its active runs.

    Attributes:
        state: The committed record; never changed here.
        active: Number and earliest start of the active runs in each state.
        results: Results that its source can produce. Their series exist from the start.
        objective: Index of its objective, from 0.
        page: `page` of its objective or source, which limits the severity of its alerts.
        labels: Names and values of the labels that objectives add to jobrun_job_info.
        step_histograms: Whether durations of its steps are exposed.
        withheld: True while its counters and histograms are not exposed yet.
        steps_withheld: True while the counters and histograms of its steps are not exposed yet.
    """

    state: JobState
    active: Mapping[State, tuple[int, float | None]] = {}
    results: tuple[Result, ...] = ()
    has_steps: bool = False
    objective: int | None = None
    team: str = ""
    page: str = "critical"
    failures_to_page: int = 3
    labels: tuple[tuple[str, str], ...] = ()
    job_url: str = ""
    failed_run_url: str = ""
    step_histograms: bool = True
    withheld: bool = False
    steps_withheld: bool = False

    @property
    def counted(self) -> bool:
        """Return whether the job has its own counters and histograms."""
        return not (self.state.gone or self.state.folded)

    @property
    def gauged(self) -> bool:
        """Return whether the job has gauges. Folded jobs and the `__other__` job have none."""
        return self.counted and not self.state.overflow

    def has_series(self, name: str) -> bool:
        """Return whether its counters or histograms of this name are served."""
        # After an older state is restored, counters would be lower, which looks like a reset to Prometheus. So they are
        # withheld until the runs have been read again.
        if self.steps_withheld and name.startswith("jobrun_step"):
            return False
        return self.counted and not self.withheld and (self.step_histograms or name != STEP_DURATION)

    @property
    def owner(self) -> tuple[str, int]:
        """Return the owner of its series: see `zero_first.Owner`."""
        return "job", self.state.key

    @property
    def common_labels(self) -> tuple[str, ...]:
        """Return the values of the labels that all its series have."""
        return self.state.source, self.state.project, self.state.name


def active_of(begun: Iterable[tuple[State | None, float]]) -> dict[State, tuple[int, float | None]]:
    """Return the value of `JobView.active` for active runs, given as pairs of state and start."""
    active: dict[State, tuple[int, float | None]] = {}
    for state, start in begun:
        if state is not None:
            count, earliest = active.get(state, (0, start))
            active[state] = (count + 1, oldest((earliest, start)))
    return active
