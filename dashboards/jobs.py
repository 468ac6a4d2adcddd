"""What can be asked of jobs in PromQL, for any selection of them.

Two exporters may watch the same runs, so nothing is summed over instances: `max by` comes first, and a job's labels are
all that is left.
"""

import msgspec

JOB = "source, project, job_name"
GRACE = 600
"""Seconds that a run may come late, as in the alert on overdue jobs."""

LONG = 2 * 86_400_000
"""Milliseconds; ranges beyond this are added up from recorded hours, where samples would be too many."""
IS_LONG, IS_SHORT = 'result!~".*@{$long}"', 'result=~".*@{$long}"'
"""Matchers that let all series through or none, by the variable `long`, which is 1 for long ranges and else 0.

Every word of a result is matched by `.*@{0}`, and none by `.*@{1}`. A selector that lets none through costs nothing.
"""


class Jobs(msgspec.Struct, frozen=True):
    """Some jobs, by the matchers that select them."""

    matchers: str

    def series(self, metric: str, more: str = "") -> str:
        """The selector of a metric of these jobs, with more matchers."""
        return f"{metric}{{{self.matchers}{', ' if more else ''}{more}}}"

    def each(self, metric: str, *labels: str, more: str = "") -> str:
        """A metric, one series a job and value of these labels."""
        return f"max by ({', '.join((JOB, *labels))}) ({self.series(metric, more)})"

    def counted(self, expression: str) -> str:
        """How many jobs an expression gives; 0 if none, but nothing where no job is known at all."""
        return f"count({expression}) or 0 * count({self.series('jobrun_job_info')})"

    @property
    def watermark(self) -> str:
        """Up to when everything is counted, one series a source."""
        return "max by (source) (jobrun_source_watermark_timestamp_seconds)"

    @property
    def failing(self) -> str:
        """Jobs that failed since their last success, and how often; cancelled and skipped runs change nothing."""
        return f"({self.each('jobrun_consecutive_failures')} > 0)"

    @property
    def overdue(self) -> str:
        """Jobs of which no run began within the grace after the time it was expected, and seconds since that time."""
        return f"({self.late} > {GRACE})"

    @property
    def late(self) -> str:
        """Jobs of which the expected run has not begun, and seconds since it was expected.

        Compared with the watermark and not with the clock: while an API cannot be read no run is missing.
        """
        expected = self.each("jobrun_job_next_run_expected_timestamp_seconds")
        lateness = f"(-1 * ({expected} - on (source) group_left () {self.watermark}) > 0)"
        return f"({lateness} and on ({JOB}) ({self.each('jobrun_active_runs')} == 0))"

    @property
    def running_for(self) -> str:
        """Seconds since the earliest start of the runs that go on."""
        start = self.each("jobrun_oldest_active_run_start_timestamp_seconds", more='state="executing"')
        return f"(time() - {start})"

    @property
    def budget(self) -> str:
        """Seconds that a run may take."""
        return self.each("jobrun_job_duration_budget_seconds")

    @property
    def last_good(self) -> str:
        """End of the last success; where there was none, when the job was first known."""
        success = self.each("jobrun_last_success_timestamp_seconds")
        return f"({success} or {self.each('jobrun_job_discovered_timestamp_seconds')})"

    @property
    def age(self) -> str:
        """Seconds from the last success to the watermark: while an API cannot be read nothing ages."""
        return f"(-1 * ({self.last_good} - on (source) group_left () {self.watermark}))"

    @property
    def freshness(self) -> str:
        """The largest age that the last success may have."""
        return self.each("jobrun_job_freshness_objective_seconds")

    @property
    def last_failure(self) -> str:
        """Run, step and link of each job's last failed run; one series a job."""
        return f"topk by ({JOB}) (1, {self.series('jobrun_last_failed_run_info')})"

    @property
    def worst_streak(self) -> str:
        """The longest streak of failures that a job had in the whole range, the same at each point of it."""
        streak = self.series("jobrun_consecutive_failures")
        return f"(max by ({JOB}) (max_over_time({streak}[$__range] @ end())) > 0)"

    def endings(self, window: str, more: str = "") -> str:
        """How many runs ended in a window, by result.

        Counters of jobs rise by whole runs: rounding takes away what `increase` extrapolates.
        """
        return f"sum by (result) (round({self.rise('jobrun_runs_total', window, 'result', more=more)}))"

    def endings_of_hours(self, window: str) -> str:
        """Likewise, added up from the recording rules' hours, for windows of whole hours.

        A second is added to the instant, so that a window of three hours has three of them: those of its end, and of an
        hour and two hours before, whether or not Prometheus counts the one at its very beginning.
        """
        hours = self.series("source_project_job_name_result:jobrun_runs:increase1h", IS_LONG)
        return f"sum by (result) (round(max by ({JOB}, result) (sum_over_time({hours}[{window}:1h] offset -1s))))"

    def rise(self, metric: str, window: str, *labels: str, more: str = "") -> str:
        """How much a counter, or the buckets of a histogram, rose in a window; one series a job and these labels."""
        return f"max by ({', '.join((JOB, *labels))}) (increase({self.series(metric, more)}[{window}]))"

    def recorded(self, name: str) -> str:
        """A series of the recording rules, one a job."""
        return self.each(f"source_project_job_name:{name}")
