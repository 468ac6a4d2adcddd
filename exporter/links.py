"""Addresses of our own pages."""

from urllib.parse import quote, urlencode


def run_path(source: str, run_id: str) -> str:
    """The path of a run's page. Ids that browsers would take for a way up get the list that holds just this run."""
    if run_id in {"", ".", ".."}:
        return runs_path(source=source, run_id=run_id)
    return f"/runs/{quote(source, safe='')}/{quote(run_id, safe='')}"


def runs_path(**filters: str) -> str:
    """The path of a list of runs."""
    return "/runs?" + urlencode(filters)


def absolute(external_url: str, path: str) -> str:
    """An address for people elsewhere; without `web.external_url` the path alone."""
    return external_url.rstrip("/") + path
