"""The auditor: what the exporter has counted in the end, beside what each simulated vendor says was true."""

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
    """Adds all discrepancies to the findings; gives how many endings were compared."""
    compared = 0
    for word in harness.words:
        checked, wrong = source(harness, word)
        compared += checked
        for each in wrong:
            harness.findings.add(f"{word}: {each}")
    lost = harness.watch.value("jobrun_exporter_state_cold_starts_total", reason="lost") or 0
    if lost > len(harness.outages) * len(harness.words):
        harness.findings.add(f"{lost:g} states are said to be lost, there were {len(harness.outages)} outages")
    for each in secrets(harness):
        harness.findings.add(each)
    return compared


def source(harness: ScenarioHarness, word: str) -> tuple[int, list[str]]:
    """What is wrong with one source's numbers, and how many endings they stand for."""
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
    """It must be the start of a poll, and of no job's earlier."""
    if not any(abs(begun - timestamp) < SKEW for begun in harness.polls_begun[word]):
        yield f"the baseline {timestamp:.0f} is the start of no poll"
    for job in harness.life.ledger.jobs_of(word):
        if not job.name.startswith(RENAMED) and abs(job.baseline - timestamp) > SKEW:
            yield f"the baseline of {job.project}/{job.name} is {job.baseline - timestamp:.0f} s from the source's"


def ranges(harness: ScenarioHarness, word: str, unobserved: Sequence[Range]) -> Iterator[str]:
    """What is said to be unobserved: the metric tells as much, and there was an outage for each of them."""
    told = harness.watch.value("jobrun_source_unobserved_seconds_total", source=word) or 0.0
    if abs(told - seconds(unobserved)) > 1:
        yield f"{told:.0f} s are said to be unobserved, the ranges are of {seconds(unobserved):.0f} s"
    reasons = merged([*harness.outages, *harness.unread[word]])
    for since, until in unobserved:
        if not any(low - DAY <= since and until <= high for low, high in reasons):
            yield f"{since:.0f} to {until:.0f} is said to be unobserved, without any outage"


def shown(harness: ScenarioHarness, family: str, word: str) -> Counter[Key]:
    """The counts of a source as the last page shows them."""
    counts: Counter[Key] = Counter()
    for series, value in harness.watch.values.items():
        sample = SAMPLE.fullmatch(series)
        if sample and sample[1] == family and value:
            labels = dict(LABEL.findall(sample[2]))
            if labels["source"] == word and not labels["job_name"].startswith(INCLUDED):
                counts[tuple(labels[name] for name in LABELS[family])] += int(value)
    return counts


def differences(what: str, found: Counter[Key], must: Counter[Key], may: Counter[Key]) -> list[str]:
    """Where what was found is less than it must be, or more than it may be."""
    return [
        f"{what} of {'/'.join(key)}: {found[key]} counted, there are {must[key]}"
        + (f" to {may[key]}" if may[key] != must[key] else "")
        for key in sorted(found | may)
        if not must[key] <= found[key] <= may[key]
    ]


def by_result(counts: Counter[Key]) -> Counter[Key]:
    """The same without projects and jobs: which jobs are counted together is not promised."""
    sums: Counter[Key] = Counter()
    for (_, _, result), count in counts.items():
        sums[result,] += count
    return sums


def steps_lost(harness: ScenarioHarness, word: str) -> int:
    """Runs whose steps the exporter says it could not get."""
    return int(harness.watch.value("jobrun_source_steps_lost_total", source=word) or 0)


def secrets(harness: ScenarioHarness) -> Iterator[str]:
    """Nothing secret and nothing of customers in the logs or in any file of the state."""
    logs = harness.log.getvalue()
    files = {path.name: path.read_bytes() for path in harness.state.parent.iterdir()}
    for mark in harness.forbidden:
        if mark in logs:
            yield f"the logs hold {mark[:4]}…"
        yield from (f"{name} holds {mark[:4]}…" for name, content in files.items() if mark.encode() in content)
    for line in logs.splitlines():
        if '"at":"' in line:
            yield f"the log reports an exception of our own: {line[:300]}"
