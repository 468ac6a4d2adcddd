"""Workato's rows: as documented, with variants of what is not documented."""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Literal, NamedTuple

import msgspec

from exporter.model import FAILING, Result
from exporter.simulators.response_view import Seen
from exporter.simulators.world import MARK, SimJob, SimRun, SimStep

ADAPTER = "connector"
FOLDER = 1
CREATED = "2023-01-02T03:04:05.000-08:00"
"""When recipes, projects and users were made."""


class WorkatoShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows look. The defaults are the rows that current clients see.

    Attributes:
        users_envelope: Key of the object around the list of managed users; "" for a bare array.
        recipes_envelope: The same for recipes; None for `result` with customers and `items` in a single workspace, as
            real clients have seen it.
        excluded_code: Whether recipes have an empty code or no code if the request excludes it.
        status: Whether rows of the list of jobs have a status.
        words: Other statuses, by the usual status or by the exporter's result or state.
        error_parts: Whether rows of the list show the type of an error.
        repeats: Whether rows of the list show which job they repeat.
        last_run_at: Whether recipes show when they ran last.
        scope_count: Whether pages show how many jobs pass the filter.
        waiting_start: The start that a waiting job shows: null, or its creation.
        offset_minutes: The UTC offset of times.
        numeric_ids: Whether IDs of customers and recipes are numbers, or texts of digits.
    """

    users_envelope: str = "result"
    recipes_envelope: str | None = None
    excluded_code: Literal["empty", "absent"] = "empty"
    status: bool = True
    words: Mapping[str, str] = {}
    error_parts: bool = True
    repeats: bool = True
    last_run_at: bool = True
    scope_count: bool = True
    waiting_start: Literal["absent", "created"] = "absent"
    offset_minutes: int = -420
    numeric_ids: bool = True


STATUSES: Mapping[str, str] = {
    "pending": "pending",
    "executing": "pending",
    "success": "succeeded",
    "skip": "succeeded",
}
"""The vendor's statuses. Every other result is failed."""


def number_of(name: str) -> int:
    """Return the number of a customer or a recipe."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=5).digest(), "big")


def shown_id(name: str, shape: WorkatoShape) -> object:
    """Return the ID of a customer or a recipe as rows show it."""
    return number_of(name) if shape.numeric_ids else str(number_of(name))


def user_row(project: str, active: int, shape: WorkatoShape) -> dict[str, object]:
    """Return a managed user."""
    return {
        "id": shown_id(project, shape),
        "name": f"Customer {MARK}",
        "external_id": project or None,
        "notification_email": f"{MARK}@example.com",
        "in_trial": False,
        "active_recipe_count": active,
    }


class Tally(NamedTuple):
    """Number of a recipe's completed and successful jobs, and the start of the last job."""

    ended: int
    succeeded: int
    last: float | None = None


def recipe_row(job: SimJob, tally: Tally, shape: WorkatoShape, *, code: bool) -> dict[str, object]:
    """Return a recipe with the counts of its completed jobs."""
    row: dict[str, object] = {
        "id": shown_id(job.job_id, shape),
        "user_id": 1,
        "name": job.name,
        "description": f"Orders of {MARK}",
        "folder_id": FOLDER,
        "running": job.enabled,
        "job_succeeded_count": tally.succeeded,
        "job_failed_count": tally.ended - tally.succeeded,
        "lifetime_task_count": 3 * tally.ended,
        "stopped_at": None,
        "stop_cause": stop_cause(job) or None,
        "created_at": CREATED,
        "updated_at": CREATED,
        "copy_count": 0,
        "trigger_application": ADAPTER,
        "action_applications": [ADAPTER],
        "applications": [ADAPTER],
        "parameters_schema": [],
        "parameters": {},
        "config": [{"keyword": "application", "provider": ADAPTER, "name": ADAPTER, "account_id": 7}],
        "webhook_url": None,
        "author_name": MARK,
        "version_no": 1,
        "version_author_name": MARK,
        "version_author_email": f"{MARK}@example.com",
    }
    if shape.last_run_at:
        row["last_run_at"] = None if tally.last is None else written_time(tally.last, shape)
    if code:
        row["code"] = f'{{"input": "{MARK}", "filler": "{"x" * 100_000}"}}'
    elif shape.excluded_code == "empty":
        row["code"] = ""
    return row


def stop_cause(job: SimJob) -> str:
    """Return why a recipe was stopped; "" if it was not stopped."""
    return "" if job.enabled else "trigger_errors_limit"


def project_row(shape: WorkatoShape) -> dict[str, object]:
    """Return the project that holds all recipes of a workspace."""
    return {"id": shown_id("project", shape), "name": "Orders", "description": f"Of {MARK}", "folder_id": FOLDER}


def account_row(shape: WorkatoShape) -> dict[str, object]:
    """Return the user of the token."""
    return {
        "id": shown_id("account", shape),
        "name": MARK,
        "email": f"{MARK}@example.com",
        "created_at": CREATED,
        "plan_id": "team",
        "current_billing_period_start": CREATED,
        "current_billing_period_end": CREATED,
        "expert": False,
        "avatar_url": "https://example.com/avatar.png",
        "recipes_count": 0,
        "active_recipes_count": 0,
        "root_folder_id": FOLDER,
        "interested_applications": [],
        "company_name": MARK,
        "location": "",
        "last_seen": CREATED,
        "contact_phone": None,
        "contact_email": f"{MARK}@example.com",
        "about_me": "",
        "email_verified": True,
        "timezone": "UTC",
        "trial": False,
    }


def job_row(seen: Seen, recipe_id: object, shape: WorkatoShape) -> dict[str, object]:
    """Return a job as lists show it: times are cut to whole seconds."""
    row = _row(seen, recipe_id, shape, whole=True)
    if not shape.status:
        del row["status"]
    if not shape.error_parts:
        del row["error_parts"]
    if not shape.repeats:
        del row["master_job_id"]
    return row


def job_detail(seen: Seen, recipe_id: object, shape: WorkatoShape) -> dict[str, object]:
    """Return a job by its ID, with the lines that have run."""
    run, now = seen
    return _row(seen, recipe_id, shape, whole=False) | {
        "handle": run.run_id,
        "is_repeat": run.attempts > 1,
        "is_test": False,
        "is_test_case_job": False,
        "master_job_handle": _master(run),
        "calling_job_handle": None,
        "lines": [
            _line(number, step, now)
            for number, step in enumerate(run.steps)
            if step.start is not None and step.start <= now
        ],
    }


def status_of(seen: Seen, shape: WorkatoShape) -> str:
    """Return the status of a job."""
    outcome = seen.run.at(seen.now)
    usual = STATUSES.get(str(outcome), "failed")
    return shape.words.get(str(outcome), shape.words.get(usual, usual))


def _row(seen: Seen, recipe_id: object, shape: WorkatoShape, *, whole: bool) -> dict[str, object]:
    run, now = seen
    outcome = run.at(now)
    waiting = run.created if shape.waiting_start == "created" else None
    started = run.start if run.start <= now else waiting
    failed = outcome in FAILING or outcome is Result.CANCELLATION
    return {
        "id": run.run_id,
        "recipe_id": recipe_id,
        "status": status_of(seen, shape),
        "started_at": None if started is None else written_time(started, shape, whole=whole),
        "completed_at": written_time(run.end, shape, whole=whole)
        if isinstance(outcome, Result) and run.end is not None
        else None,
        "title": run.title,
        "is_poll_error": False,
        "is_error": failed,
        "error": run.error if failed else None,
        "error_parts": _error_parts(run) if failed else None,
        "master_job_id": _master(run),
        "calling_recipe_id": None,
        "calling_job_id": None,
    }


def _master(run: SimRun) -> str:
    """Return the job that this one repeats, or itself."""
    return f"{run.run_id}-first" if run.attempts > 1 else run.run_id


def _error_parts(run: SimRun) -> dict[str, object]:
    line = next((number for number, step in enumerate(run.steps) if step.result in FAILING), None)
    return {
        "error_type": run.error_type,
        "error_id": MARK,
        "message": run.error,
        "adapter": ADAPTER,
        "action": "load",
        "line_number": line,
    }


def _line(number: int, step: SimStep, now: float) -> dict[str, object]:
    failed = step.at(now) in FAILING
    end = now if step.end is None else min(now, step.end)
    return {
        "recipe_line_number": number,
        "adapter_name": ADAPTER,
        "adapter_operation": re.sub(r"\W", "_", step.name),
        "input": {"row": MARK},
        "output": {"row": MARK},
        "mask_data": False,
        "line_stat": {"total": end - (step.start or end), "details": []},
        "error": f"Could not load {MARK}" if failed else None,
    }


def written_time(timestamp: float, shape: WorkatoShape, *, whole: bool = True) -> str:
    """Return a time with milliseconds, which are always 0 in lists."""
    zone = timezone(timedelta(minutes=shape.offset_minutes))
    milliseconds = round(timestamp * 1000)
    local = datetime.fromtimestamp(milliseconds // 1000, zone).isoformat()
    fraction = 0 if whole else milliseconds % 1000
    return f"{local[:19]}.{fraction:03d}{local[19:]}"
