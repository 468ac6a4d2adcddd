"""Compares the exporter's counts at the end of a scenario with the ground truth, and searches for secrets."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.chaos.ground_truth import Key, Range, merge_ranges, total_seconds
from tests.chaos.renamed_job import INCLUDED_PREFIX, NAME_PREFIXES
from tests.chaos.scenario_harness import ScenarioHarness
from tests.contract.harness import DAY

SKEW = 10.0
"""Seconds by which a baseline may differ from the start of a poll."""

SAMPLE = re.compile(r"([a-z_]+)\{(.*)\}")
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
LABELS = {
    "jobrun_runs_total": ("project", "job_name", "result"),
    "jobrun_steps_total": ("project", "job_name", "step_name", "result"),
}


def audit(harness: ScenarioHarness) -> int:
    """Add all discrepancies to the findings. Return the number of runs that must be counted."""
    compared = 0
    for vendor in harness.vendors:
        runs, findings = audit_source(harness, vendor)
        compared += runs
        for finding in findings:
            harness.findings.add(f"{vendor}: {finding}")
    lost = harness.page_auditor.value("jobrun_exporter_state_cold_starts_total", reason="lost") or 0
    if lost > len(harness.outages) * len(harness.vendors):
        harness.findings.add(f"{lost:g} states are reported as lost, there were {len(harness.outages)} outages")
    for finding in audit_logs_and_files(harness):
        harness.findings.add(finding)
    return compared


def audit_source(harness: ScenarioHarness, vendor: str) -> tuple[int, list[str]]:
    """Return the number of runs of a source that must be counted, and the findings."""
    state, truths = harness.process.ledger.source(vendor), harness.truths[vendor]
    if state.baseline is None:
        return 0, ["it has never been polled"]
    findings = list(audit_baseline(harness, vendor, state.baseline))
    unobserved = merge_ranges(state.unobserved)
    findings += audit_unobserved_ranges(harness, vendor, unobserved)
    end = harness.clock() - harness.plan.poll_interval
    minimum, _ = truths.counts(state.baseline + SKEW, end, unobserved)
    _, maximum = truths.counts(state.baseline - SKEW, harness.clock(), unobserved)
    counts = page_counts(harness, "jobrun_runs_total", vendor)
    if harness.plan.bounded:
        counts, minimum, maximum = (by_result(each) for each in (counts, minimum, maximum))
    runs = minimum.total()
    findings += wrong_counts("runs", counts, minimum, maximum)
    renamed = truths.renamed
    if renamed is not None:
        exact = not harness.plan.zero_first and not unobserved
        findings += renamed.findings(harness.clock(), state.baseline, exact=exact)
    lost = harness.page_auditor.value("jobrun_source_steps_lost_total", source=vendor)
    if not lost and harness.plan.steps == "all" and vendor != "northflank" and not harness.plan.bounded:
        minimum, _ = truths.steps(state.baseline + SKEW, end, unobserved)
        _, maximum = truths.steps(state.baseline - SKEW, harness.clock(), unobserved)
        findings += wrong_counts("steps", page_counts(harness, "jobrun_steps_total", vendor), minimum, maximum)
    return runs, findings


def audit_baseline(harness: ScenarioHarness, vendor: str, timestamp: float) -> Iterator[str]:
    """Yield findings if a baseline is not the start of a poll, or not the same for all jobs."""
    if not any(abs(start - timestamp) < SKEW for start in harness.poll_starts[vendor]):
        yield f"the baseline {timestamp:.0f} is the start of no poll"
    for job in harness.process.ledger.jobs_of(vendor):
        if not job.name.startswith(NAME_PREFIXES) and abs(job.baseline - timestamp) > SKEW:
            yield f"the baseline of {job.project}/{job.name} is {job.baseline - timestamp:.0f} s from the source's"


def audit_unobserved_ranges(harness: ScenarioHarness, vendor: str, unobserved: Sequence[Range]) -> Iterator[str]:
    """Yield findings if the metric differs from the unobserved ranges, or if a range has no cause."""
    exposed = harness.page_auditor.value("jobrun_source_unobserved_seconds_total", source=vendor) or 0.0
    if abs(exposed - total_seconds(unobserved)) > 1:
        yield f"{exposed:.0f} s are reported as unobserved, the ranges are of {total_seconds(unobserved):.0f} s"
    explained = merge_ranges([*harness.outages, *harness.unread_ranges[vendor]])
    for since, until in unobserved:
        if not any(low - DAY <= since and until <= high for low, high in explained):
            yield f"{since:.0f} to {until:.0f} is reported as unobserved, without an outage"


def page_counts(harness: ScenarioHarness, family: str, vendor: str) -> Counter[Key]:
    """Return the counts of a source on the last page, without those of the renamed job."""
    counts: Counter[Key] = Counter()
    for series, value in harness.page_auditor.values.items():
        sample = SAMPLE.fullmatch(series)
        if sample and sample[1] == family and value:
            labels = dict(LABEL.findall(sample[2]))
            if labels["source"] == vendor and not labels["job_name"].startswith(INCLUDED_PREFIX):
                counts[tuple(labels[name] for name in LABELS[family])] += int(value)
    return counts


def wrong_counts(what: str, counts: Counter[Key], minimum: Counter[Key], maximum: Counter[Key]) -> list[str]:
    """Return a finding for each count below its minimum or above its maximum."""
    return [
        f"{what} of {'/'.join(key)}: {counts[key]} counted, there are {minimum[key]}"
        + (f" to {maximum[key]}" if maximum[key] != minimum[key] else "")
        for key in sorted(counts | maximum)
        if not minimum[key] <= counts[key] <= maximum[key]
    ]


def by_result(counts: Counter[Key]) -> Counter[Key]:
    """Return the sums by result. It is not promised which jobs fold into `__other__`."""
    sums: Counter[Key] = Counter()
    for (_, _, result), count in counts.items():
        sums[result,] += count
    return sums


def audit_logs_and_files(harness: ScenarioHarness) -> Iterator[str]:
    """Yield findings of secrets and customer data in the logs or the state, and of exceptions in the logs."""
    logs = harness.log.getvalue()
    files = {path.name: path.read_bytes() for path in harness.state.parent.iterdir()}
    for secret in harness.secrets:
        if secret in logs:
            yield f"the logs hold {secret[:4]}…"
        yield from (f"{name} holds {secret[:4]}…" for name, content in files.items() if secret.encode() in content)
    for line in logs.splitlines():
        if '"at":"' in line:
            yield f"the log reports an exception of our own: {line[:300]}"
