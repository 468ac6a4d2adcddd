"""Strait's rows: jobs, runs with their attempts, workflow runs with their compensation, steps."""

import csv
import io
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from exporter.model import FAILING, Result, State
from exporter.simulators.response_view import Seen
from exporter.simulators.world import MARK, SimJob, SimRun, SimStep

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
JOBS_CREATED = 1_600_000_000.0
EXPORTED = ("id", "job_id", "status", "attempt", "triggered_by", "created_at", "started_at", "finished_at", "error")
"""Columns of the export of runs."""

RETRY_PART = 0.1
"""Fraction of its duration for which an attempt after the first waits in the queue."""


class StraitShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows look.

    Attributes:
        delayed_after: A run that waits longer than this many seconds has a planned start.
        compensation: Seconds from a workflow run's failure to its compensation, and duration of the compensation; 0 for
            no compensation.
        payload_bytes: Length of the padding in each run's payload.
        traced: Whether runs have an execution trace.
        paused: Reasons why jobs are paused, by slug.
    """

    delayed_after: float = 600.0
    compensation: float = 0.0
    payload_bytes: int = 0
    traced: bool = False
    paused: Mapping[str, str] = {}


class Life(NamedTuple):
    """The latest life of a run, the time for which its state is shown, and the creation time of its first life.

    A replay of a run is another life with the same ID.
    """

    run: SimRun
    now: float
    created: float


RUN_STATUSES: Mapping[Result | State, str] = {
    Result.SUCCESS: "completed",
    Result.FAILURE: "failed",
    Result.ERROR: "crashed",
    Result.TIMEOUT: "timed_out",
    Result.CANCELLATION: "canceled",
    Result.SKIP: "expired",
    Result.UNKNOWN: "evaporated",
}
"""Statuses by result. A failure after retries is a dead letter instead. The exporter does not know the last status."""

WORKFLOW_STATUSES: Mapping[Result | State, str] = {
    **RUN_STATUSES,
    Result.ERROR: "compensation_failed",
    State.PENDING: "pending",
    State.EXECUTING: "running",
}
"""The real server has no status for a skipped workflow run. Here it is `expired`."""

STEP_STATUSES: Mapping[Result | State, str] = {
    Result.SUCCESS: "completed",
    Result.SKIP: "skipped",
    Result.CANCELLATION: "canceled",
    State.PENDING: "pending",
    State.EXECUTING: "running",
}
"""Every other result of a step is `failed`."""


def lives(seen: Iterable[Seen]) -> list[Life]:
    """Return the latest visible life of each run."""
    latest: dict[str, Life] = {}
    for run, now in sorted(seen, key=lambda one: one.run.created):
        known = latest.get(run.run_id)
        latest[run.run_id] = Life(run, now, run.created if known is None else known.created)
    return list(latest.values())


def microseconds(timestamp: float) -> int:
    """Return a time as the server's database stores it."""
    return round(timestamp * 1_000_000)


def timestamp(timestamp: float) -> str:
    """Return a time in RFC 3339 with as many digits as needed, as the server writes it."""
    time = EPOCH + timedelta(microseconds=microseconds(timestamp))
    text = time.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return text + "Z"


def plain_id(identity: str) -> str:
    """Return an ID as the server shows it: an ID with a slash is hashed, because the server's IDs have none."""
    return hashed(identity) if "/" in identity else identity


def hashed(text: str) -> str:
    """Return a UUID for a text."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, text))


def version_id(identity: str) -> str:
    """Return the ID of a version, as the server shows it."""
    return f"ver_{hashed(identity).replace('-', '')[:12]}"


def job_row(job: SimJob, number: int, shape: StraitShape) -> dict[str, object]:
    """Return the row of a job."""
    row = {**_common(job, number), "endpoint_url": "http://worker.internal/ok", "max_attempts": 3}
    row |= {"timeout_secs": 300, "retry_priority_boost": 1, "cron_overlap_policy": "allow", "queue": "default"}
    row |= {"execution_mode": "http", "paused": False}
    if (reason := shape.paused.get(job.name)) is not None:
        row |= {"paused": True, "paused_at": timestamp(JOBS_CREATED + number), "pause_reason": reason}
    return row | ({"cron": job.schedule, "timezone": "Europe/Berlin"} if job.schedule else {})


def workflow_row(job: SimJob, number: int, shape: StraitShape) -> dict[str, object]:  # noqa: ARG001  # as job_row
    """Return the row of a workflow."""
    zone = {"cron": job.schedule, "cron_timezone": "Europe/Berlin"} if job.schedule else {}
    return {**_common(job, number), **zone}


def _common(job: SimJob, number: int) -> dict[str, object]:
    created = timestamp(JOBS_CREATED + number)
    return {
        "id": plain_id(job.job_id),
        "project_id": job.project,
        "name": f"The job {job.name}",
        "slug": job.name,
        "description": f"Made for {MARK}",
        "enabled": job.enabled,
        "version": 1,
        "version_id": version_id(job.job_id),
        "version_policy": "pin",
        "created_at": created,
        "updated_at": created,
    }


def run_status(life: Life, shape: StraitShape) -> str:
    """Return the status of a job's run."""
    run, outcome = life.run, life.run.at(life.now)
    if isinstance(outcome, Result):
        return "dead_letter" if outcome is Result.FAILURE and run.attempts > 1 else RUN_STATUSES[outcome]
    if outcome is State.EXECUTING:
        return "queued" if _attempt(life)[1] is None else "executing"
    if life.created != run.created:
        return "replay_staged"
    return "delayed" if run.start - run.created > shape.delayed_after else "queued"


def run_row(life: Life, shape: StraitShape) -> dict[str, object]:
    """Return the row of a job's run."""
    run, outcome = life.run, life.run.at(life.now)
    attempt, started = _attempt(life)
    ended = isinstance(outcome, Result)
    status = run_status(life, shape)
    row = {
        "id": run.run_id,
        "job_id": plain_id(run.job_id),
        "project_id": run.project,
        "status": status,
        "attempt": attempt,
        "payload": {"customer": run.title, "padding": "x" * shape.payload_bytes},
        "result": {"customer": MARK} if outcome is Result.SUCCESS else None,
        "error": run.error or (f"Try again, {MARK}" if attempt > 1 else None),
        "error_class": run.error_type if ended and outcome in FAILING else None,
        "triggered_by": "cron",
        "tags": {"customer": MARK},
        "scheduled_at": timestamp(run.start) if run.start - run.created > shape.delayed_after else None,
        "started_at": None if started is None or outcome is Result.SKIP else timestamp(started),
        "finished_at": timestamp(run.end) if ended and run.end is not None else None,
        "execution_trace": {"queue_wait_ms": round(1000 * (run.start - run.created))} if shape.traced else None,
        "priority": 0,
        "job_version": run.version,
        "debug_mode": False,
        "lineage_depth": 0,
        "created_at": timestamp(life.created),
    }
    return {name: value for name, value in row.items() if value is not None}


def export_csv(shown: Iterable[Life]) -> bytes:
    """Return the export of runs. As on the newest servers, IDs are right and states are those at creation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(EXPORTED)
    for life in shown:
        run, created = life.run, timestamp(life.created)
        writer.writerow(
            (run.run_id, plain_id(run.job_id), "queued", 1, "cron", created, "", "", f'Of "{MARK}",\nagain')
        )
    return text.getvalue().encode()


def _attempt(life: Life) -> tuple[int, float | None]:
    """Return the number of the current attempt, and its start; None while it waits in the queue."""
    # All attempts take equally long. Each attempt after the first waits in the queue before it starts.
    run, now = life.run, life.now
    if now < run.start:
        return 1, None
    if run.attempts == 1 or run.end is None:
        return 1, run.start
    length = (run.end - run.start) / run.attempts
    number = min(run.attempts, 1 + int((now - run.start) / length)) if length else run.attempts
    begun = run.start + (number - 1) * length
    if number > 1:
        begun += RETRY_PART * length
    return number, begun if begun <= now else None


def workflow_status(life: Life, shape: StraitShape) -> str:
    """Return the status of a workflow run; some failures are compensated later."""
    outcome, end, wait = life.run.at(life.now), life.run.end, shape.compensation
    if wait and outcome in (Result.FAILURE, Result.TIMEOUT) and end is not None and life.now >= end + wait:
        return "compensating" if life.now < end + 2 * wait else "compensated"
    return WORKFLOW_STATUSES[outcome]


def workflow_run_row(life: Life, shape: StraitShape) -> dict[str, object]:
    """Return the row of a workflow run."""
    run, status = life.run, workflow_status(life, shape)
    end = None if status in ("pending", "running", "compensating") else run.end
    if status == "compensated" and end is not None:
        end += 2 * shape.compensation
    row = {
        "id": run.run_id,
        "workflow_id": plain_id(run.job_id),
        "project_id": run.project,
        "status": status,
        "triggered_by": "manual",
        "workflow_version": run.version,
        "workflow_version_id": version_id(f"{run.job_id} {run.version}"),
        "workflow_snapshot_id": hashed(f"snapshot of {run.job_id} {run.version}"),
        "tags": {"customer": MARK},
        "payload": {"customer": run.title},
        "error": run.error if end is not None and run.error else None,
        "started_at": timestamp(run.start) if run.start <= life.now and status != "expired" else None,
        "finished_at": None if end is None else timestamp(end),
        "created_at": timestamp(life.created),
    }
    return {name: value for name, value in row.items() if value is not None}


def step_row(life: Life, step: SimStep) -> dict[str, object]:
    """Return the row of a step. All steps of a run have the run's creation time."""
    outcome = step.at(life.now)
    status = STEP_STATUSES.get(outcome, "failed")
    started = step.start is not None and step.start <= life.now
    row = {
        "id": hashed(f"step {life.run.run_id} {step.name}"),
        "workflow_run_id": life.run.run_id,
        "workflow_step_id": hashed(f"step {life.run.job_id} {step.name}"),
        "job_run_id": hashed(f"run of step {life.run.run_id} {step.name}") if started else None,
        "step_ref": step.name,
        "attempt": 1,
        "status": status,
        "deps_completed": 0,
        "deps_required": len(step.dependencies),
        "output": {"customer": MARK} if outcome is Result.SUCCESS else None,
        "error": f"Failed for {MARK}" if status == "failed" else None,
        "started_at": timestamp(step.start) if started and step.start is not None else None,
        "finished_at": timestamp(step.end) if isinstance(outcome, Result) and step.end is not None else None,
        "created_at": timestamp(life.created),
    }
    return {name: value for name, value in row.items() if value is not None}


def timeline(life: Life, rows: Sequence[Mapping[str, object]], shape: StraitShape) -> dict[str, object]:
    """Return the timeline of a workflow run, with steps as `step_row` makes them."""
    run = workflow_run_row(life, shape)
    head: dict[str, object] = {name: run[name] for name in ("status", "started_at", "finished_at") if name in run}
    total = 0.0 if life.run.end is None else life.run.end - life.run.start
    steps = [_timed(row, step, life.run.steps) for row, step in zip(rows, life.run.steps, strict=True)]
    return {"workflow_run_id": life.run.run_id, **head, "total_ms": round(1000 * total), "steps": steps}


def _timed(row: Mapping[str, object], step: SimStep, steps: Sequence[SimStep]) -> dict[str, object]:
    seconds = 0.0 if step.start is None or step.end is None or "finished_at" not in row else step.end - step.start
    shown = {name: row[name] for name in ("step_ref", "status", "started_at", "finished_at") if name in row}
    extra = {"duration_ms": round(1000 * seconds), "on_critical_path": True, "wait_ms": 0}
    parallel = [other.name for other in steps if other is not step and _overlap(other, step)]
    return {"step_run_id": row["id"], **shown, **extra, **({"parallel_with": parallel} if parallel else {})}


def _overlap(one: SimStep, other: SimStep) -> bool:
    """Return whether two steps that have started execute at the same time."""
    starts = [step.start for step in (one, other) if step.start is not None]
    ends = [math.inf if step.end is None else step.end for step in (one, other)]
    return len(starts) == 2 and max(starts) < min(ends)
