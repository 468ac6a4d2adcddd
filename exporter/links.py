"""Links to the exporter's pages and to the vendor."""

from urllib.parse import quote, urlencode

from exporter.config.source import SourceSettings
from exporter.model import Job


def run_path(source: str, run_id: str) -> str:
    """Return the path of a run's page, or of a list with only this run if browsers take its ID for a parent folder."""
    if run_id in {"", ".", ".."}:
        return runs_path(source=source, run_id=run_id)
    return f"/runs/{quote(source, safe='')}/{quote(run_id, safe='')}"


def runs_path(**filters: str) -> str:
    """Return the path of a list of runs."""
    return "/runs?" + urlencode(filters)


def run_url(external_url: str, settings: SourceSettings, job: Job, run_id: str) -> str:
    """Return the link to a run: on the exporter with an external URL, else at the vendor; "" if unknown."""
    if external_url:
        return absolute(external_url, run_path(settings.name, run_id))
    return vendor_url(settings, job, run_id)


def vendor_url(settings: SourceSettings, job: Job, run_id: str) -> str:
    """Return the link to the run's page at the vendor; "" if unknown."""
    return settings.link(run_id=run_id, job_id=job.job_id, job_name=job.name, project=job.project)


def absolute(external_url: str, path: str) -> str:
    """Return an absolute address; without `web.external_url`, only the path."""
    return external_url.rstrip("/") + path
