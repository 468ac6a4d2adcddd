"""The auditor: compares the exporter's counts with the ground truth of each simulated vendor."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.chaos.ground_truth import Key, Range, merged, seconds
from tests.chaos.renamed import INCLUDED, RENAMED
from tests.chaos.scenario_harness import ScenarioHarness
from tests.contract.harness import DAY

SKEW = 10.0
SAMPLE = re.compile(r"([a-z_]+)\{(.*)\}")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
LABELS = {
    "jobrun_runs_total": ("project", "job_name", "result"),
    "jobrun_steps_total": ("project", "job_name", "step_name", "result"),
}


def audit(harness: ScenarioHarness) -> int:
    """Add all discrepancies to the findings. Return the number of compared runs."""
    compared = 0
    for word in harness.words:
        checked, wrong = source(harness, word)
        compared += checked
        for each in wrong:
            harness.findings.add(f"{word}: {each}")
    lost = harness.watch.value("jobrun_exporter_state_cold_starts_total", reason="lost") or 0
    if lost > len(harness.outages) * len(harness.words):
        harness.findings.add(f"{lost:g} states are reported as lost, there were {len(harness.outages)} outages")
    for each in secrets(harness):
        harness.findings.add(each)
    return compared


def source(harness: ScenarioHarness, word: str) -> tuple[int, list[str]]:
    """Return the number of completed runs of a source, and what is wrong with its numbers."""
    state, truths = harness.life.ledger.source(word), harness.truths[word]
    if state.baseline is None:
        return 0, ["it has never been polled"]
    wrong = list(baseline(harness, word, state.baseline))
    unobserved = merged(state.unobserved)
    wrong += ranges(harness, word, unobserved)
    end = harness.clock() - harness.plan.poll_interval
    must, _ = truths.counts(state.baseline + SKEW, end, unobserved)
    _, may = truths.counts(state.baseline - SKEW, harness.clock(), unobserved)
    found = shown(harness, "jobrun_runs_total", word)
    if harness.plan.bounded:
        found, must, may = (by_result(counts) for counts in (found, must, may))
    wrong += differences("runs", found, must, may)
    renamed = truths.renamed
    if renamed is not None:
        wrong += renamed.wrong(harness.clock(), state.baseline, exact=not harness.plan.zero_first and not unobserved)
    lost = int(harness.watch.total("jobrun_source_steps_lost_total", word)) or steps_lost(harness, word)
    if not lost and harness.plan.steps == "all" and word != "northflank" and not harness.plan.bounded:
        must_steps, _ = truths.steps(state.baseline + SKEW, end, unobserved)
        _, may_steps = truths.steps(state.baseline - SKEW, harness.clock(), unobserved)
        wrong += differences("steps", shown(harness, "jobrun_steps_total", word), must_steps, may_steps)
    return sum(must.values()), wrong


def baseline(harness: ScenarioHarness, word: str, timestamp: float) -> Iterator[str]:
    """Yield problems of a baseline: it must be the start of a poll, and the same for all jobs."""
    if not any(abs(begun - timestamp) < SKEW for begun in harness.polls_begun[word]):
        yield f"the baseline {timestamp:.0f} is the start of no poll"
    for job in harness.life.ledger.jobs_of(word):
        if not job.name.startswith(RENAMED) and abs(job.baseline - timestamp) > SKEW:
            yield f"the baseline of {job.project}/{job.name} is {job.baseline - timestamp:.0f} s from the source's"


def ranges(harness: ScenarioHarness, word: str, unobserved: Sequence[Range]) -> Iterator[str]:
    """Yield problems of unobserved ranges: the metric must agree, and each range must have a cause."""
    exposed = harness.watch.value("jobrun_source_unobserved_seconds_total", source=word) or 0.0
    if abs(exposed - seconds(unobserved)) > 1:
        yield f"{exposed:.0f} s are reported as unobserved, the ranges are of {seconds(unobserved):.0f} s"
    reasons = merged([*harness.outages, *harness.unread[word]])
    for since, until in unobserved:
        if not any(low - DAY <= since and until <= high for low, high in reasons):
            yield f"{since:.0f} to {until:.0f} is reported as unobserved, without an outage"


def shown(harness: ScenarioHarness, family: str, word: str) -> Counter[Key]:
    """Return the counts of a source on the last page."""
    counts: Counter[Key] = Counter()
    for series, value in harness.watch.values.items():
        sample = SAMPLE.fullmatch(series)
        if sample and sample[1] == family and value:
            labels = dict(LABEL.findall(sample[2]))
            if labels["source"] == word and not labels["job_name"].startswith(INCLUDED):
                counts[tuple(labels[name] for name in LABELS[family])] += int(value)
    return counts


def differences(what: str, found: Counter[Key], must: Counter[Key], may: Counter[Key]) -> list[str]:
    """Return where counts are less than they must be, or more than they may be."""
    return [
        f"{what} of {'/'.join(key)}: {found[key]} counted, there are {must[key]}"
        + (f" to {may[key]}" if may[key] != must[key] else "")
        for key in sorted(found | may)
        if not must[key] <= found[key] <= may[key]
    ]


def by_result(counts: Counter[Key]) -> Counter[Key]:
    """Return the counts by result alone: which jobs are counted together is not promised."""
    sums: Counter[Key] = Counter()
    for (_, _, result), count in counts.items():
        sums[result,] += count
    return sums


def steps_lost(harness: ScenarioHarness, word: str) -> int:
    """Return the runs whose steps the exporter reports as lost."""
    return int(harness.watch.value("jobrun_source_steps_lost_total", source=word) or 0)


def secrets(harness: ScenarioHarness) -> Iterator[str]:
    """Yield secrets and customer data in the logs or in the files of the state."""
    logs = harness.log.getvalue()
    files = {path.name: path.read_bytes() for path in harness.state.parent.iterdir()}
    for mark in harness.forbidden:
        if mark in logs:
            yield f"the logs hold {mark[:4]}…"
        yield from (f"{name} holds {mark[:4]}…" for name, content in files.items() if mark.encode() in content)
    for line in logs.splitlines():
        if '"at":"' in line:
            yield f"the log reports an exception of our own: {line[:300]}"
