"""Links to the exporter's pages and to the vendor."""

from urllib.parse import quote, urlencode

from exporter.config.source import SourceSettings
from exporter.model import Job


def run_path(source: str, run_id: str) -> str:
    """Return the path of a run's page."""
    if run_id in {"", ".", ".."}:  # cannot be part of a path, so the link is to a list with only this run
        return runs_path(source=source, run_id=run_id)
    return f"/runs/{quote(source, safe='')}/{quote(run_id, safe='')}"


def runs_path(**filters: str) -> str:
    """Return the path of a list of runs. `filters`: its parameters."""
    return "/runs?" + urlencode(filters)


def run_url(external_url: str, settings: SourceSettings, job: Job, run_id: str) -> str:
    """Return the link to a run: to the exporter's page if there is an external URL, otherwise to the vendor's."""
    if external_url:
        return absolute(external_url, run_path(settings.name, run_id))
    return vendor_url(settings, job, run_id)


def vendor_url(settings: SourceSettings, job: Job, run_id: str) -> str:
    """Return the link to the vendor's page of a run; "" if unknown."""
    return settings.link(run_id=run_id, job_id=job.job_id, job_name=job.name, project=job.project)


def absolute(external_url: str, path: str) -> str:
    """Return the URL of a path; the path itself if there is no external URL."""
    return external_url.rstrip("/") + path
