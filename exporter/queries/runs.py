"""Builds reports of runs and steps. Pure functions."""

import base64
import binascii
import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from exporter.config.source import SourceSettings
from exporter.counting.classify import CountState, count_earlier_completions
from exporter.counting.counters import root_failure
from exporter.counting.records import JobState
from exporter.links import absolute, run_path, vendor_url
from exporter.model import Result, Run, Step
from exporter.queries.errors import QueryError
from exporter.queries.records import RunReport, StepReport, Usual
from exporter.queries.run_list import Place
from exporter.state.schema import StoredRun

PUBLIC_MARKS = {
    CountState.OPEN: "open",
    CountState.COUNTED: "counted",
    CountState.BASELINE: "baseline",
    CountState.EXPIRED: "given_up",
}
"""Values of `RunReport.mark`."""

RUN_FIELDS = tuple(name for name in RunReport.__struct_fields__ if name in Run.__struct_fields__)
"""Fields that a report copies from the run."""

STEP_RESULTS_DECODER = msgspec.json.Decoder(list[tuple[str, Result | None, float | None]])
PLACE_DECODER = msgspec.json.Decoder(Place)


def run_report(row: StoredRun, job: JobState, settings: SourceSettings, external_url: str) -> RunReport:
    """Return the report of a run."""
    run = row.run
    return RunReport(
        **{name: getattr(run, name) for name in RUN_FIELDS},
        source=job.source,
        project=job.project,
        job_name=job.name,
        mark=mark_of(row),
        endings=count_earlier_completions(row, job.baseline) + (row.mark in {CountState.COUNTED, CountState.EXPIRED}),
        seen=row.seen,
        url=absolute(external_url, run_path(job.source, run.run_id)),
        vendor_url=vendor_url(settings, job.job, run.run_id),
    )


def mark_of(row: StoredRun) -> str:
    """Return how a run is counted: a value of `RunReport.mark`, which is not `StoredRun.mark`."""
    return "late" if row.late and row.mark is CountState.COUNTED else PUBLIC_MARKS[row.mark]


def encode_cursor(place: Place) -> str:
    """Return a place in the list as a cursor."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decode_cursor(text: str) -> Place:
    """Return the place of a cursor. Raises QueryError."""
    try:
        return PLACE_DECODER.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise QueryError(400, "is not a cursor of this API", parameter="cursor") from None


def stored_steps(text: str | None) -> list[Step]:
    """Return the steps in a row's `step_results`."""
    rows = STEP_RESULTS_DECODER.decode(text) if text else []
    return [Step(name=name, result=result, duration=duration) for name, result, duration in rows]


def step_reports(steps: Iterable[Step], usual: Mapping[str, float]) -> tuple[StepReport, ...]:
    """Return the reports of steps. `usual`: usual duration of each step by name."""
    return tuple(StepReport(**msgspec.structs.asdict(step), usual=usual.get(step.name)) for step in steps)


def failed_step(steps: Sequence[Step], run_id: str, job: JobState) -> str:
    """Return the step that failed first."""
    # The job's record has the step of its last failure. It is more exact: stored steps lack starts and dependencies.
    last = job.last_failure
    return last.failed_step if last and last.run_id == run_id and last.failed_step else root_failure(steps)


def usual_durations(durations: Iterable[float | None], budget: float | None) -> Usual:
    """Return the usual durations of runs. `budget`: maximum duration of a run."""
    known = sorted(duration for duration in durations if duration is not None)
    if not known:
        return Usual(budget=budget)
    p95 = statistics.quantiles(known, n=20, method="inclusive")[-1] if len(known) > 1 else known[0]
    return Usual(runs=len(known), p50=statistics.median(known), p95=p95, budget=budget)


def usual_step_durations(texts: Iterable[str | None]) -> dict[str, float]:
    """Return the usual duration of each step by name. `texts`: `step_results` of several runs."""
    durations: dict[str, list[float]] = {}
    for text in texts:
        for step in stored_steps(text):
            if step.duration is not None and step.result is Result.SUCCESS:
                durations.setdefault(step.name, []).append(step.duration)
    return {name: statistics.median(values) for name, values in durations.items()}
