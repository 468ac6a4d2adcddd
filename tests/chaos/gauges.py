"""Compares the gauges that alerts use with the truth: none may be wrong for longer than promised."""

from collections.abc import Iterator

from tests.chaos.ground_truth import JobTruth, Range, is_sure
from tests.chaos.scenario_harness import ScenarioHarness

STATES = ("pending", "executing")
SKEW = 10.0
"""Seconds by which times of the exporter may differ from ours: it knows the API's clock to whole seconds."""


class Gauges:
    """Compares after each poll, for each source that has been undisturbed for the promised time."""

    def __init__(self, harness: ScenarioHarness) -> None:
        self._harness = harness
        self.compared = 0

    def compare(self) -> None:
        """Compare all undisturbed sources."""
        harness = self._harness
        for word in harness.words:
            since = harness.clock() - harness.plan.promised(word)
            self._never_too_many(word)
            if word not in harness.absent and harness.disturbed[word] < since:
                self.compared += 1
                for wrong in self._wrong(word, since):
                    harness.findings.add(f"{word}: {wrong}")

    def _never_too_many(self, word: str) -> None:
        """Add a finding for each source that has counted more than has happened."""
        harness = self._harness
        baseline = (
            harness.life.ledger.committed.sources[word].baseline
            if word in harness.life.ledger.committed.sources
            else None
        )
        counted = harness.watch.total("jobrun_runs_total", word)
        if baseline is not None and counted > harness.truths[word].most(baseline - SKEW, harness.clock() + SKEW):
            harness.findings.add(f"{word}: {counted:g} completions counted, more than there were")

    def _wrong(self, word: str, since: float) -> Iterator[str]:
        harness = self._harness
        state = harness.life.ledger.source(word)
        unobserved: list[Range] = list(state.unobserved)
        if harness.watch.value("jobrun_source_up", source=word) != 1:
            yield "up is not 1"
        mark = harness.watch.value("jobrun_source_watermark_timestamp_seconds", source=word)
        if mark is None or not since - SKEW <= mark <= harness.clock() + SKEW:
            yield f"the watermark is {mark}"
        yield from self._incomplete(word, mark, unobserved)
        if harness.plan.bounded:
            return
        for (project, name), job in harness.truths[word].jobs.items():
            if (word, project, name) in harness.poisoned:
                continue
            labels = {"source": word, "project": project, "job_name": name}
            yield from (f"{project}/{name}: {wrong}" for wrong in self._job(labels, job, since, unobserved))

    def _incomplete(self, word: str, mark: float | None, unobserved: list[Range]) -> Iterator[str]:
        """Yield a finding if a run before the watermark is not counted, unless the API answered wrongly lately."""
        harness = self._harness
        baseline = harness.life.ledger.source(word).baseline
        answered_wrongly = harness.clock() - harness.answered_wrongly[word] < harness.plan.overlap + 26 * 3600
        poisoned = any(each[0] == word for each in harness.poisoned)
        if mark is None or baseline is None or harness.plan.zero_first or answered_wrongly or poisoned:
            return
        needed = harness.truths[word].sure(baseline + SKEW, mark - 1, unobserved)
        counted = harness.watch.total("jobrun_runs_total", word)
        if counted < needed:
            yield f"{counted:g} completions are counted, {needed} lie before the watermark {mark:.0f}"

    def _job(self, labels: dict[str, str], job: JobTruth, since: float, unobserved: list[Range]) -> Iterator[str]:
        watch, now = self._harness.watch, self._harness.clock()
        active = [watch.value("jobrun_active_runs", **labels, state=state) for state in STATES]
        least, most = job.open_between(since, now)
        unsure = len(job.stuck) + len(job.doubted)
        least -= unsure + (most if unobserved else 0)
        if None not in active and not least <= sum(value or 0.0 for value in active) <= most + unsure:
            yield f"{active} active runs, there are {least} to {most}"
        shown = watch.value("jobrun_last_run_end_timestamp_seconds", **labels)
        sure = [completion for completion in job.ended[: job.place(since)][-20:] if is_sure(completion, unobserved)]
        if not sure or sure[-1].end < self._harness.first_poll(labels["source"]):
            return
        if shown is None or shown < sure[-1].end:
            yield f"the last run ended at {shown}, not at {sure[-1].end:.0f}"
            return
        yield from self._last(labels, job, shown)
        failing = watch.value("jobrun_consecutive_failures", **labels)
        low, high = job.streaks(since, now, unobserved)
        if failing is None or not low <= failing <= high:
            yield f"{failing} failures in a row, there are {low} to {high}"

    def _last(self, labels: dict[str, str], job: JobTruth, shown: float) -> Iterator[str]:
        place = job.place(shown) - 1
        if place < 0 or job.ends[place] != shown:
            yield f"no run ended at {shown:.0f}"
            return
        result = str(job.ended[place].result)
        if self._harness.watch.value("jobrun_last_run_status", **labels, status=result) != 1:
            yield f"the last run ended as {result}, which is not shown"
