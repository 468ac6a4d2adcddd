"""Compares the gauges that alerts use with the truth. After a disruption they must soon be correct again."""

from collections.abc import Iterator

from tests.chaos.ground_truth import JobTruth, Range, is_sure
from tests.chaos.scenario_harness import ScenarioHarness

STATES = ("pending", "executing")
SKEW = 10.0
"""Seconds by which the exporter's times may differ from the truth: `Date` gives the API's time in whole seconds."""


class GaugeAuditor:
    """Audits the gauges of each source. `compared`: how often the gauges of a source were compared."""

    def __init__(self, harness: ScenarioHarness) -> None:
        self._harness = harness
        self.compared = 0

    def audit(self) -> None:
        """Add findings for all sources whose last disruption is long enough ago."""
        harness = self._harness
        for vendor in harness.vendors:
            since = harness.clock() - harness.plan.recovery_time(vendor)
            self._audit_maximum(vendor)
            if vendor not in harness.unconfigured and harness.last_disrupted[vendor] < since:
                self.compared += 1
                for finding in self._source(vendor, since):
                    harness.findings.add(f"{vendor}: {finding}")

    def _audit_maximum(self, vendor: str) -> None:
        """Add a finding if the page has more completed runs of a source than there were."""
        harness = self._harness
        baseline = (
            harness.process.ledger.committed.sources[vendor].baseline
            if vendor in harness.process.ledger.committed.sources
            else None
        )
        counted = harness.page_auditor.total("jobrun_runs_total", vendor)
        if baseline is not None and counted > harness.truths[vendor].max_completed(
            baseline - SKEW, harness.clock() + SKEW
        ):
            harness.findings.add(f"{vendor}: {counted:g} completions counted, more than there were")

    def _source(self, vendor: str, since: float) -> Iterator[str]:
        """Yield findings of a source that has not been disrupted since a time."""
        harness = self._harness
        unobserved: list[Range] = list(harness.process.ledger.source(vendor).unobserved)
        if harness.page_auditor.value("jobrun_source_up", source=vendor) != 1:
            yield "up is not 1"
        watermark = harness.page_auditor.value("jobrun_source_watermark_timestamp_seconds", source=vendor)
        if watermark is None or not since - SKEW <= watermark <= harness.clock() + SKEW:
            yield f"the watermark is {watermark}"
        yield from self._counts(vendor, watermark, unobserved)
        if harness.plan.bounded:
            return
        for (project, name), job in harness.truths[vendor].jobs.items():
            if (vendor, project, name) in harness.unreadable_jobs:
                continue
            labels = {"source": vendor, "project": project, "job_name": name}
            findings = self._job(labels, job, since, unobserved)
            yield from (f"{project}/{name}: {finding}" for finding in findings)

    def _counts(self, vendor: str, watermark: float | None, unobserved: list[Range]) -> Iterator[str]:
        """Yield a finding if completed runs before the watermark are not counted."""
        harness = self._harness
        baseline = harness.process.ledger.source(vendor).baseline
        # A sweep may have to repair a wrong answer.
        repaired = harness.clock() - harness.last_wrong_answer[vendor] >= harness.plan.overlap + 26 * 3600
        unreadable = any(job[0] == vendor for job in harness.unreadable_jobs)
        if watermark is None or baseline is None or harness.plan.zero_first or not repaired or unreadable:
            return
        needed = harness.truths[vendor].min_completed(baseline + SKEW, watermark - 1, unobserved)
        counted = harness.page_auditor.total("jobrun_runs_total", vendor)
        if counted < needed:
            yield f"{counted:g} completions are counted, {needed} lie before the watermark {watermark:.0f}"

    def _job(self, labels: dict[str, str], job: JobTruth, since: float, unobserved: list[Range]) -> Iterator[str]:
        page, now = self._harness.page_auditor, self._harness.clock()
        active = [page.value("jobrun_active_runs", **labels, state=state) for state in STATES]
        least, most = job.active_between(since, now)
        unsure = len(job.never_completed) + len(job.unreadable)
        least -= unsure + (most if unobserved else 0)
        if None not in active and not least <= sum(value or 0.0 for value in active) <= most + unsure:
            yield f"{active} active runs, there are {least} to {most}"
        last_end = page.value("jobrun_last_run_end_timestamp_seconds", **labels)
        sure = [
            completion
            for completion in job.completed[: job.completed_by(since)][-20:]
            if is_sure(completion, unobserved)
        ]
        if not sure or sure[-1].end < self._harness.first_poll(labels["source"]):
            return
        if last_end is None or last_end < sure[-1].end:
            yield f"the last run ended at {last_end}, not at {sure[-1].end:.0f}"
            return
        yield from self._last_run(labels, job, last_end)
        failures = page.value("jobrun_consecutive_failures", **labels)
        low, high = job.streaks(since, now, unobserved)
        if failures is None or not low <= failures <= high:
            yield f"{failures} failures in a row, there are {low} to {high}"

    def _last_run(self, labels: dict[str, str], job: JobTruth, last_end: float) -> Iterator[str]:
        place = job.completed_by(last_end) - 1
        if place < 0 or job.ends[place] != last_end:
            yield f"no run ended at {last_end:.0f}"
            return
        result = str(job.completed[place].result)
        if self._harness.page_auditor.value("jobrun_last_run_status", **labels, status=result) != 1:
            yield f"the last run ended as {result}, which is not shown"
