"""PromQL about jobs, for any selection of jobs.

Two exporters may count the same runs, so each query starts with `max by` over the labels of a job and never sums over
instances. The label `job` is the scrape job: two teams may have sources with the same name.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from alerting.promql import HOURS, JOB, LAST_SEEN
from exporter.snapshot.conditions import RATIO_RUNS

SOURCE = "job, source"

RULES_SEEN: Final = f'{LAST_SEEN}{{job=~"$job"}}'
"""This series exists while Prometheus evaluates the rules and has scraped an exporter within a week."""

LONG = 2 * 86_400_000
"""Range in milliseconds above which recorded hours are summed, because raw samples would be too many."""
IS_LONG, IS_SHORT = 'result!~".*@{$long}"', 'result=~".*@{$long}"'
"""Matchers that select all series or none, depending on the variable `long`: 1 for long ranges, else 0.

`@{0}` repeats @ zero times, so `.*@{0}` matches each result. `.*@{1}` requires a literal @, which no result has. A
selector without a match costs nothing.
"""


def window_of(window: str) -> str:
    """Return the brackets of a window; one of Grafana's steps starts at its time instead of ending there.

    Grafana aligns the times of a graph to its step. The last one may be an hour ago, and newer runs must be shown too.
    """
    return f"[{window}] offset -$__interval" if window in {"$__rate_interval", "$__interval"} else f"[{window}]"


class Jobs(msgspec.Struct, frozen=True):
    """PromQL about the jobs that some matchers select.

    Attributes:
        matchers: Matchers of labels that all series of a job have.
        scrape: Matcher of the scrape job.
        team: Matcher of the team, a label of `jobrun_job_info` only; "" for any team.
    """

    matchers: str
    scrape: str = 'job=~"$job"'
    team: str = ""

    def series(self, metric: str, more: str = "") -> str:
        """Return the selector of a metric of these jobs, with more matchers."""
        return f"{metric}{{{self.scrape}, {self.matchers}{', ' if more else ''}{more}}}"

    def each(self, metric: str, *labels: str, more: str = "") -> str:
        """Return a metric with one series per job and per value of these labels."""
        return f"max by ({', '.join((JOB, *labels))}) ({self.series(metric, more)})"

    def counted(self, expression: str) -> str:
        """Return the number of jobs of an expression; 0 if none, but no series if no job is known."""
        return f"count({expression}) or 0 * count({self.series('jobrun_job_info')})"

    @property
    def info(self) -> str:
        """Return the selector of `jobrun_job_info` for these jobs."""
        return self.series("jobrun_job_info", self.team)

    def chosen(self, expression: str) -> str:
        """Return an expression restricted to jobs of the team."""
        return f"({expression}) and on ({JOB}) {self.info}" if self.team else expression

    def with_team(self, expression: str) -> str:
        """Return an expression with the label team, one series per job even if two exporters disagree."""
        return f"({expression}) * on ({JOB}) group_left (team) topk by ({JOB}) (1, {self.info})"

    def of_source(self, metric: str) -> str:
        """Return a metric of sources, one series per source."""
        return f"max by ({SOURCE}) ({metric})"

    @property
    def watermark(self) -> str:
        """Return the watermark, one series per source."""
        return self.of_source(f"jobrun_source_watermark_timestamp_seconds{{{self.scrape}}}")

    @property
    def up(self) -> str:
        """Return whether a source is up, one series per source."""
        return self.of_source(f"jobrun_source_up{{{self.scrape}}}")

    @property
    def streak(self) -> str:
        """Return the number of failures since the last success."""
        return self.each("jobrun_consecutive_failures")

    @property
    def failing_for(self) -> str:
        """Return the seconds since the first failure after the last success."""
        return f"(time() - {self.each('jobrun_failing_since_timestamp_seconds')})"

    @property
    def late(self) -> str:
        """Return the seconds since the expected run of a job should have started.

        They are measured at the watermark, so no run is missing while an API cannot be read.
        """
        expected = self.each("jobrun_job_next_run_expected_timestamp_seconds")
        lateness = f"(-1 * ({expected} - on ({SOURCE}) group_left () {self.watermark}) > 0)"
        return f"({lateness} unless on ({JOB}) ({self.each('jobrun_active_runs')} > 0))"

    @property
    def running_for(self) -> str:
        """Return the seconds since the earliest active run started, or was created if it still waits."""
        return f"(time() - min by ({JOB}) ({self.series('jobrun_oldest_active_run_start_timestamp_seconds')}))"

    @property
    def budget(self) -> str:
        """Return the duration budget."""
        return self.each("jobrun_job_duration_budget_seconds")

    @property
    def last_good(self) -> str:
        """Return the end of the last success; without one, when the job was first seen."""
        success = self.each("jobrun_last_success_timestamp_seconds")
        return f"({success} or {self.each('jobrun_job_discovered_timestamp_seconds')})"

    @property
    def age(self) -> str:
        """Return the seconds from the last success to the watermark, which stops while an API cannot be read."""
        return f"(-1 * ({self.last_good} - on ({SOURCE}) group_left () {self.watermark}))"

    @property
    def freshness(self) -> str:
        """Return the maximum age of the last success."""
        return self.each("jobrun_job_freshness_objective_seconds")

    @property
    def off(self) -> str:
        """Return the disabled jobs."""
        return f"({self.each('jobrun_job_enabled')} == 0)"

    @property
    def last_failure(self) -> str:
        """Return run, step and link of the last failed run, one series per job."""
        return f"topk by ({JOB}) (1, {self.series('jobrun_last_failed_run_info')})"

    @property
    def streak_in_step(self) -> str:
        """Return the longest streak of a job in each step of a graph."""
        return f"max by ({JOB}) (max_over_time({self.series('jobrun_consecutive_failures')}{window_of('$__interval')}))"

    @property
    def worst_streak(self) -> str:
        """Return the longest streak of a job in the whole range, the same at each point in time."""
        streak = self.series("jobrun_consecutive_failures")
        return f"(max by ({JOB}) (max_over_time({streak}[$__range] @ end() offset -$__interval)) > 0)"

    @property
    def enough_runs(self) -> str:
        """Return the jobs with enough runs in 30 days.

        A counter of runs never falls, so the difference of two samples equals `increase` and is much cheaper.
        """
        now = self.each("jobrun_runs_total", "result")
        before = f"max by ({JOB}, result) ({self.series('jobrun_runs_total')} offset 30d)"
        return f"(sum by ({JOB}) ({now} - ({before} or 0 * {now})) >= {RATIO_RUNS})"

    @property
    def success_ratio(self) -> str:
        """Return the success ratio of 30 days."""
        return self._of_enough("jobrun_runs:success_ratio_30d")

    @property
    def errors_used(self) -> str:
        """Return the used fraction of the error budget of 30 days."""
        return self._of_enough("jobrun_runs:error_budget_burn_30d")

    def _of_enough(self, name: str) -> str:
        return f"({self.recorded(name)} and on ({JOB}) {self.enough_runs})"

    def completed(self, window: str, more: str = "") -> str:
        """Return the number of completed runs in a window, by result.

        Counters increase by whole runs, so rounding removes the extrapolation of `increase`.
        """
        runs = self.rise("jobrun_runs_total", window, "result", more=more)
        return f"sum by (result) (round({self.chosen(runs)}))"

    def completed_in_hours(self, window: str) -> str:
        """Return the number of completed runs, by result, as the sum of recorded hours, for windows of whole hours.

        The window is shifted by a second, so that three hours have exactly three samples, whether or not Prometheus
        includes a sample at the start of a window.
        """
        hours = self.series(HOURS, IS_LONG)
        return f"sum by (result) (round(max by ({JOB}, result) (sum_over_time({hours}[{window}:1h] offset -1s))))"

    def rise(self, metric: str, window: str, *labels: str, more: str = "") -> str:
        """Return the increase of a counter or of buckets in a window, one series per job and these labels."""
        return f"max by ({', '.join((JOB, *labels))}) (increase({self.series(metric, more)}{window_of(window)}))"

    def quantile(self, share: float, metric: str, window: str, *labels: str, of: str = JOB) -> str:
        """Return a quantile of a histogram over these jobs, one series per value of these labels."""
        classic, native = self.series(f"{metric}_bucket"), self.series(metric)
        return quantile(share, classic, native, window, labels, of=of)

    def recorded(self, name: str) -> str:
        """Return a recorded series, one per job."""
        return f"max by ({JOB}) ({self.series(f'source_project_job_name:{name}')})"


def quantile(  # noqa: PLR0913  # each is a part of the expression
    share: float, classic: str, native: str, window: str, labels: Sequence[str], *, of: str
) -> str:
    """Return a quantile of a histogram, one series per value of these labels.

    Prometheus stores either buckets with a label `le` or native histograms, which it may have converted from buckets
    (`convert_classic_histograms_to_nhcb`). The query covers both forms; a missing form costs nothing. `max by` ignores
    native histograms, so the exporter with the newest watermark is used. `of`: labels that are equal for two exporters.
    """
    by = ", ".join(labels)
    each = ", ".join(dict.fromkeys(["le", *of.split(", "), *labels]))
    of_buckets = f"sum by ({', '.join(('le', *labels))}) (max by ({each}) (increase({classic}{window_of(window)})))"
    return f"histogram_quantile({share}, {of_buckets})\nor histogram_quantile({share}, {newest(native, window, by)})"


def newest(native: str, window: str, by: str = "") -> str:
    """Return the increase of a native histogram, from the exporter with the newest watermark."""
    best = f"topk by ({SOURCE}) (1, jobrun_source_watermark_timestamp_seconds)"
    return f"sum by ({by}) (increase({native}{window_of(window)}) and on (job, instance, source) {best})"
