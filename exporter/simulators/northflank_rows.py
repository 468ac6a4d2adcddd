"""Northflank's rows: as documented, with variants of what is not documented."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from exporter.model import FAILING, Result, State
from exporter.simulators.response_view import Seen, chosen
from exporter.simulators.world import MARK, SimJob, SimRun


class NorthflankShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows look. The defaults are the values of the vendor's sample.

    Attributes:
        no_end: How a row without an end shows `concludedAt`.
        endless_share: Fraction of the completed runs that lack `concludedAt`.
        words: Other statuses, by the usual status (`{"FAILED": "ERRORED"}`) or by the exporter's result or state
            (`{"cancellation": "ABORTED"}`, to give single runs an unknown status).
        succeeded: Value of `succeeded` in successful runs. The vendor's sample has 0.
        backoff_limit: Value of `backoffLimit` in every job.
    """

    no_end: Literal["absent", "null", "empty"] = "absent"
    endless_share: float = 0.0
    words: Mapping[str, str] = {}
    succeeded: int = 0
    backoff_limit: int = 3


STATUSES: Mapping[Result | State, str] = {
    State.PENDING: "RUNNING",
    State.EXECUTING: "RUNNING",
    Result.SUCCESS: "SUCCESS",
    Result.SKIP: "SUCCESS",
}
"""The vendor's statuses. Every other result is FAILED."""

NO_END: Mapping[str, Mapping[str, object]] = {
    "absent": {},
    "null": {"concludedAt": None},
    "empty": {"concludedAt": ""},
}


PLACE: Mapping[str, object] = {
    "cluster": {"id": "nf-europe-west", "name": "nf-europe-west", "namespace": "simulated", "loadBalancers": []},
    "createdAt": "2023-01-01T00:00:00.000Z",
}
"""Where a project or job runs, and when it was created."""


def slug_of(job: SimJob | SimRun) -> str:
    """Return the vendor's ID of a job: unique in its project only."""
    return job.job_id.removeprefix(f"{job.project}/")


def run_row(seen: Seen, shape: NorthflankShape) -> dict[str, object]:
    """Return the row of a run at the time at which it is seen."""
    run, now = seen
    outcome = run.at(now)
    usual = STATUSES.get(outcome, "FAILED")
    concluded = isinstance(outcome, Result)
    row = {
        "id": run.run_id,
        "active": int(not concluded),
        "backoffLimit": max(shape.backoff_limit, run.attempts - 1),
        "completions": int(concluded),
        "concluded": concluded,
        "failed": run.attempts if outcome in FAILING else run.attempts - 1,
        "runName": f"{slug_of(run)}-{hashlib.sha256(run.run_id.encode()).hexdigest()[:24]}",
        "status": shape.words.get(str(outcome), shape.words.get(usual, usual)),
        "succeeded": shape.succeeded if outcome is Result.SUCCESS else 0,
        "startedAt": stamp(run.start),
    }
    if concluded and run.end is not None and not chosen(run.run_id, shape.endless_share):
        return {**row, "concludedAt": stamp(run.end)}
    return {**row, **NO_END[shape.no_end]}


def project_row(project: str) -> dict[str, object]:
    """Return a project of the list."""
    return {
        "id": project,
        "uid": _uid(project),
        "name": project,
        "lifecycleStatus": "created",
        "description": f"For {MARK}",
    }


def project_details(project: str, jobs: Iterable[SimJob]) -> dict[str, object]:
    """Return a project with its jobs, without services and addons."""
    wanted = ("id", "uid", "appId", "name", "description", "jobType")
    rows = [job_row(job) for job in jobs]
    shown = [{name: row[name] for name in wanted} for row in rows]
    return {**project_row(project), **PLACE, "services": [], "addons": [], "jobs": shown}


def job_row(job: SimJob) -> dict[str, object]:
    """Return a job of its project's list. Only jobs with a schedule can be suspended."""
    cron = {"jobType": "cron", "suspended": not job.enabled} if job.schedule else {"jobType": "manual"}
    slug = slug_of(job)
    name = {"id": slug, "uid": _uid(job.job_id), "appId": f"/simulated/{job.project}/{slug}", "name": job.name}
    switches = {"disabledCI": False, "disabledCD": False}
    return {**name, "projectId": job.project, **cron, **switches, "description": f"Of {MARK}", "tags": [MARK]}


def job_details(job: SimJob, shape: NorthflankShape) -> dict[str, object]:
    """Return a job with its settings."""
    cron = {"cron": {"schedule": job.schedule, "concurrencyPolicy": "Forbid"}} if job.schedule else {}
    settings = {"backoffLimit": shape.backoff_limit, "activeDeadlineSeconds": 600, **cron}
    return {**job_row(job), **PLACE, "billing": {"deploymentPlan": "nf-compute-10"}, "settings": settings}


def _uid(text: str) -> str:
    """Return the vendor's second ID, which does not change with the name."""
    return hashlib.sha256(f"uid of {text}".encode()).hexdigest()[:24]


def stamp(timestamp: float) -> str:
    """Return a time to the millisecond, without a fraction if it is a whole second."""
    seconds, milliseconds = divmod(round(timestamp * 1000), 1000)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{milliseconds:03d}Z" if milliseconds else f"{whole}Z"
