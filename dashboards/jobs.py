"""What can be asked of jobs in PromQL, for any selection of them.

Two exporters may watch the same runs, so nothing is summed over instances: `max by` comes first, and a job's labels are
all that is left. The label `job` is the scrape job: two teams may each have a source of one name.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from alerting.promql import HOURS, JOB, LAST_SEEN
from exporter.snapshot.conditions import RATIO_RUNS

SOURCE = "job, source"

RULES_SEEN: Final = f'{LAST_SEEN}{{job=~"$job"}}'
"""Is there as long as Prometheus evaluates the rules, and has seen an exporter in a week."""

LONG = 2 * 86_400_000
"""Milliseconds; ranges beyond this are added up from recorded hours, where samples would be too many."""
IS_LONG, IS_SHORT = 'result!~".*@{$long}"', 'result=~".*@{$long}"'
"""Matchers that let all series through or none, by the variable `long`, which is 1 for long ranges and else 0.

Every word of a result is matched by `.*@{0}`, and none by `.*@{1}`. A selector that lets none through costs nothing.
"""


class Jobs(msgspec.Struct, frozen=True):
    """Some jobs, by the matchers that select them.

    Attributes:
        matchers: Of labels that all series of a job have.
        scrape: Of the scrape job.
        team: Of the team, which only `jobrun_job_info` knows; "" for any.
    """

    matchers: str
    scrape: str = 'job=~"$job"'
    team: str = ""

    def series(self, metric: str, more: str = "") -> str:
        """The selector of a metric of these jobs, with more matchers."""
        return f"{metric}{{{self.scrape}, {self.matchers}{', ' if more else ''}{more}}}"

    def each(self, metric: str, *labels: str, more: str = "") -> str:
        """A metric, one series a job and value of these labels."""
        return f"max by ({', '.join((JOB, *labels))}) ({self.series(metric, more)})"

    def counted(self, expression: str) -> str:
        """How many jobs an expression gives; 0 if none, but nothing where no job is known at all."""
        return f"count({expression}) or 0 * count({self.series('jobrun_job_info')})"

    @property
    def info(self) -> str:
        """The selector of what is known of these jobs."""
        return self.series("jobrun_job_info", self.team)

    def chosen(self, expression: str) -> str:
        """Only the jobs of the team."""
        return f"({expression}) and on ({JOB}) {self.info}" if self.team else expression

    def with_team(self, expression: str) -> str:
        """The jobs of an expression with their teams. One series per job, though two exporters may disagree."""
        return f"({expression}) * on ({JOB}) group_left (team) topk by ({JOB}) (1, {self.info})"

    def of_source(self, metric: str) -> str:
        """Return a metric of sources, one series per source."""
        return f"max by ({SOURCE}) ({metric})"

    @property
    def watermark(self) -> str:
        """Up to when everything is counted, one series per source."""
        return self.of_source(f"jobrun_source_watermark_timestamp_seconds{{{self.scrape}}}")

    @property
    def up(self) -> str:
        """Whether a source can be read, one series per source."""
        return self.of_source(f"jobrun_source_up{{{self.scrape}}}")

    @property
    def streak(self) -> str:
        """Failures since the last success; canceled and skipped runs change nothing."""
        return self.each("jobrun_consecutive_failures")

    @property
    def failing_for(self) -> str:
        """Seconds since the first failure after the last success."""
        return f"(time() - {self.each('jobrun_failing_since_timestamp_seconds')})"

    @property
    def late(self) -> str:
        """Jobs of which the expected run has not begun, and seconds since it was expected.

        Compared with the watermark and not with the clock: while an API cannot be read no run is missing.
        """
        expected = self.each("jobrun_job_next_run_expected_timestamp_seconds")
        lateness = f"(-1 * ({expected} - on ({SOURCE}) group_left () {self.watermark}) > 0)"
        return f"({lateness} unless on ({JOB}) ({self.each('jobrun_active_runs')} > 0))"

    @property
    def running_for(self) -> str:
        """Seconds since the earliest active run started, or was created where it still waits."""
        return f"(time() - min by ({JOB}) ({self.series('jobrun_oldest_active_run_start_timestamp_seconds')}))"

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
        return f"(-1 * ({self.last_good} - on ({SOURCE}) group_left () {self.watermark}))"

    @property
    def freshness(self) -> str:
        """The largest age that the last success may have."""
        return self.each("jobrun_job_freshness_objective_seconds")

    @property
    def off(self) -> str:
        """Jobs that are switched off."""
        return f"({self.each('jobrun_job_enabled')} == 0)"

    @property
    def last_failure(self) -> str:
        """Run, step and link of each job's last failed run; one series per job."""
        return f"topk by ({JOB}) (1, {self.series('jobrun_last_failed_run_info')})"

    @property
    def worst_streak(self) -> str:
        """The longest streak of failures that a job had in the whole range, the same at each point of it."""
        streak = self.series("jobrun_consecutive_failures")
        return f"(max by ({JOB}) (max_over_time({streak}[$__range] @ end())) > 0)"

    @property
    def enough_runs(self) -> str:
        """Jobs of which enough runs were counted in 30 days.

        A counter of runs never falls, so that a difference of two samples is as good as `increase`, and far cheaper.
        """
        now = self.each("jobrun_runs_total", "result")
        before = f"max by ({JOB}, result) ({self.series('jobrun_runs_total')} offset 30d)"
        return f"(sum by ({JOB}) ({now} - ({before} or 0 * {now})) >= {RATIO_RUNS})"

    @property
    def success_ratio(self) -> str:
        """Share of the runs of 30 days that succeeded."""
        return self._of_enough("jobrun_runs:success_ratio_30d")

    @property
    def errors_used(self) -> str:
        """Share of the error budget of 30 days that is used up."""
        return self._of_enough("jobrun_runs:error_budget_burn_30d")

    def _of_enough(self, name: str) -> str:
        return f"({self.recorded(name)} and on ({JOB}) {self.enough_runs})"

    def endings(self, window: str, more: str = "") -> str:
        """How many runs ended in a window, by result.

        Counters of jobs rise by whole runs: rounding takes away what `increase` extrapolates.
        """
        runs = self.rise("jobrun_runs_total", window, "result", more=more)
        return f"sum by (result) (round({self.chosen(runs)}))"

    def endings_of_hours(self, window: str) -> str:
        """How many runs ended, by result, added up from the recording rules' hours, for windows of whole hours.

        A second is added to the time, so that a window of three hours has three of them: those of its end, and of an
        hour and two hours before, whether or not Prometheus counts the one at its very beginning.
        """
        hours = self.series(HOURS, IS_LONG)
        return f"sum by (result) (round(max by ({JOB}, result) (sum_over_time({hours}[{window}:1h] offset -1s))))"

    def rise(self, metric: str, window: str, *labels: str, more: str = "") -> str:
        """How much a counter, or the buckets of a histogram, rose in a window; one series per job and these labels."""
        return f"max by ({', '.join((JOB, *labels))}) (increase({self.series(metric, more)}[{window}]))"

    def quantile(self, share: float, metric: str, window: str, *labels: str, of: str = JOB) -> str:
        """Return a quantile of a histogram over these jobs, one series per value of these labels."""
        classic, native = self.series(f"{metric}_bucket"), self.series(metric)
        return quantile(share, classic, native, window, labels, of=of)

    def recorded(self, name: str) -> str:
        """A series of the recording rules, one per job."""
        return f"max by ({JOB}) ({self.series(f'source_project_job_name:{name}')})"


def quantile(  # noqa: PLR0913  # each is a part of the expression
    share: float, classic: str, native: str, window: str, labels: Sequence[str], *, of: str
) -> str:
    """Return a quantile of a histogram, one series per value of these labels.

    Prometheus has either buckets with a label `le`, or native histograms, also such that it made of the buckets
    (`convert_classic_histograms_to_nhcb`). Both are asked for; the form that is not there costs nothing. `max by`
    ignores native histograms, so of two exporters the one is taken that has read furthest. `of`: the labels that two
    exporters agree in.
    """
    by = ", ".join(labels)
    each = ", ".join(dict.fromkeys(["le", *of.split(", "), *labels]))
    of_buckets = f"sum by ({', '.join(('le', *labels))}) (max by ({each}) (increase({classic}[{window}])))"
    return f"histogram_quantile({share}, {of_buckets})\nor histogram_quantile({share}, {furthest(native, window, by)})"


def furthest(native: str, window: str, by: str = "") -> str:
    """Return how a native histogram rose, as the exporter that has read furthest has it."""
    best = f"topk by ({SOURCE}) (1, jobrun_source_watermark_timestamp_seconds)"
    return f"sum by ({by}) (increase({native}[{window}]) and on (job, instance, source) {best})"
