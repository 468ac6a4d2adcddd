"""What is said of runs: pure functions of their rows."""

import base64
import binascii
import statistics
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from exporter.config.source import SourceSettings
from exporter.counting.classify import CountState, root_failure
from exporter.counting.records import JobState
from exporter.links import absolute, run_path, vendor_url
from exporter.model import Result, Step
from exporter.reports.errors import InvalidParameterError
from exporter.reports.records import RunReport, StepReport, Usual
from exporter.reports.runlist import Place
from exporter.state.schema import StoredRun

MARKS = {
    CountState.OPEN: "open",
    CountState.COUNTED: "counted",
    CountState.BASELINE: "baseline",
    CountState.EXPIRED: "given_up",
}
"""What a run is held for, in words."""

STEP_RESULTS = msgspec.json.Decoder(list[tuple[str, Result | None, float | None]])
PLACE = msgspec.json.Decoder(Place)


def report(row: StoredRun, job: JobState, settings: SourceSettings, external_url: str) -> RunReport:
    """All that is shown of a run in a list."""
    run = row.known.run
    return RunReport(
        source=job.source,
        run_id=run.run_id,
        project=job.project,
        job_name=job.name,
        job_id=run.job_id,
        result=run.result,
        state=run.state,
        unmapped=run.unmapped,
        created=run.created,
        scheduled=run.scheduled,
        start=run.start,
        end=run.end,
        duration=run.duration,
        queue_duration=run.queue_duration,
        retries=run.retries,
        recovered=run.recovered,
        error_type=run.error_type,
        mark=mark_of(row),
        endings=endings(row),
        seen=row.seen,
        url=absolute(external_url, run_path(job.source, run.run_id)),
        vendor_url=vendor_url(settings, job.job, run.run_id),
    )


def ended_at(row: StoredRun) -> float:
    """When a run ended, or was seen to have."""
    return row.seen if row.known.run.end is None else row.known.run.end


def mark_of(row: StoredRun) -> str:
    """What a run is held for, in a word."""
    return "late" if row.late and row.known.mark is CountState.COUNTED else MARKS[row.known.mark]


def endings(row: StoredRun) -> int:
    """How often a run was counted: once for each of its lives that ended."""
    return len(row.known.earlier) + (row.known.mark in {CountState.COUNTED, CountState.EXPIRED})


def cursor(place: Place) -> str:
    """A place in the list as a text for addresses."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def place(text: str) -> Place:
    """The place that a cursor names. Raises InvalidParameterError."""
    try:
        return PLACE.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise InvalidParameterError("cursor", "is none that was given out here") from None


def stored_steps(text: str | None) -> list[Step]:
    """A run's steps as the state holds them."""
    rows = STEP_RESULTS.decode(text) if text else []
    return [Step(name=name, result=result, duration=duration) for name, result, duration in rows]


def step_reports(steps: Iterable[Step], usual: Mapping[str, float]) -> tuple[StepReport, ...]:
    """All that is shown of steps. `usual`: usual durations by name."""
    return tuple(
        StepReport(
            name=step.name,
            result=step.result,
            state=step.state,
            start=step.start,
            end=step.end,
            duration=step.duration,
            dependencies=step.dependencies,
            usual=usual.get(step.name),
        )
        for step in steps
    )


def failed_step(steps: Sequence[Step], run_id: str, job: JobState) -> str:
    """The step that failed first; that of a job's last failure was found when all was known of it."""
    known = job.last_failure
    return known.failed_step if known and known.run_id == run_id and known.failed_step else root_failure(steps)


def usual(durations: Iterable[float | None], budget: float | None) -> Usual:
    """How long runs took."""
    known = sorted(duration for duration in durations if duration is not None)
    if not known:
        return Usual(budget=budget)
    return Usual(runs=len(known), p50=statistics.median(known), p95=percentile(known, 0.95), budget=budget)


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value below which a part of the values lies, between two of them if need be."""
    position = part * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def usual_steps(texts: Iterable[str | None]) -> dict[str, float]:
    """The usual duration of each step, by name, of runs' steps as the state holds them."""
    durations: dict[str, list[float]] = {}
    for text in texts:
        for step in stored_steps(text):
            if step.duration is not None and step.result is Result.SUCCESS:
                durations.setdefault(step.name, []).append(step.duration)
    return {name: statistics.median(values) for name, values in durations.items()}
