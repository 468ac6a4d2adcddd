"""The parameters of Workato's lists, and the rows that they select."""

from collections.abc import Sequence

from exporter.simulators.message import Refused, Request
from exporter.simulators.workato_rows import ADAPTER, FOLDER, number_of, stop_cause
from exporter.simulators.world import SimJob

LISTS = frozenset({"page", "per_page"})
RECIPE_LISTS = LISTS | {
    "adapter_names_all",
    "adapter_names_any",
    "exclude_code",
    "folder_id",
    "includes[]",
    "order",
    "running",
    "since_id",
    "stop_cause",
    "stopped_after",
    "updated_after",
    "with_subfolders",
}
JOB_LISTS = frozenset({"offset_job_id", "per_page", "prev", "status", "rerun_only"})
"""`per_page` is accepted but ignored, because the API decides the size of pages."""
STOP_CAUSES = frozenset({"trigger_errors_limit", "action_quota_limit", "trial_expired", "txn_quota_limit"})
FILTERS = frozenset({"succeeded", "failed", "pending"})
MAX_PAGE_SIZE = 100


def check_parameters(request: Request, known: frozenset[str]) -> None:
    """Raise Refused 400 for an unknown parameter. The real API ignores it, but the exporter must not rely on it."""
    if unknown := sorted(request.query.keys() - known):
        raise Refused(400, f"unknown parameter: {unknown[0]}")


def list_page(request: Request, known: frozenset[str]) -> tuple[int, int]:
    """Return the first row and the size of the requested page. Raises Refused 400 if they are invalid."""
    check_parameters(request, known)
    try:
        page, size = (int(request.query.get(name, default)) for name, default in (("page", "1"), ("per_page", "100")))
    except ValueError:
        raise Refused(400, "page and per_page must be numbers") from None
    if page < 1 or not 1 <= size <= MAX_PAGE_SIZE:
        raise Refused(400, "page must be at least 1, per_page at most 100")
    return (page - 1) * size, size


def filtered_recipes(request: Request, jobs: Sequence[SimJob]) -> list[SimJob]:
    """Return the recipes that match a list's parameters, newest ID first. Raises Refused 400 for unknown values."""
    running, cause = request.query.get("running"), request.query.get("stop_cause")
    folder, since = request.query.get("folder_id"), request.query.get("since_id")
    named = request.query.get("adapter_names_any", request.query.get("adapter_names_all", ADAPTER)).split(",")
    if running not in (None, "true", "false") or (cause is not None and cause not in STOP_CAUSES):
        raise Refused(400, "running must be true or false, stop_cause one that exists")
    if since is not None and not since.isdecimal():
        raise Refused(400, "since_id must be a number")
    if request.query.get("order", "default") not in ("default", "activity"):
        raise Refused(400, "order must be default or activity")
    kept = [
        job
        for job in jobs
        if running in (None, str(job.enabled).lower())
        and cause in (None, stop_cause(job))
        and folder in (None, str(FOLDER))
        and (since is None or number_of(job.job_id) < int(since))
        and ADAPTER in named
    ]
    return sorted(kept, key=lambda job: number_of(job.job_id), reverse=True)
