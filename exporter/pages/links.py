"""Relative links to pages and assets. They also work if a proxy adds a prefix to all paths."""

from collections.abc import Mapping
from urllib.parse import urlencode

from exporter.links import run_path
from exporter.pages.formatting import web_link


class Links:
    """Links of a page that is `depth` folders below the root. `assets`: version of each asset by name."""

    def __init__(self, depth: int, assets: Mapping[str, str]) -> None:
        self.root = "../" * depth or "./"
        self._assets = assets

    def asset(self, name: str) -> str:
        """Return the link to an asset. It contains the version, so that it changes with the content."""
        return f"{self.root}assets/{name}?v={self._assets[name]}"

    def page(self, path: str, fragment: str = "", **query: object) -> str:
        """Return the link to a page. `path`: relative to the root. `query`: parameters; empty ones are omitted."""
        return f"{self.root}{path.lstrip('/')}{query_string(query)}{fragment and f'#{fragment}'}"

    def run(self, source: str, run_id: str) -> str:
        """Return the link to a run."""
        return self.page(run_path(source, run_id))

    def log(self, source: str, run_id: str, step: str) -> str:
        """Return the link to the output of a step. The step "" stands for the run's error text."""
        return f"{self.run(source, run_id)}/log?{urlencode({'step': step})}"

    def runbook(self, kind: str) -> str:
        """Return the link to the runbook of an alert."""
        return self.page("runbooks", kind.lower())

    @staticmethod
    def vendor(url: str) -> str:
        """Return a link to a vendor's page; "" if it would be dangerous."""
        return web_link(url)


def query_string(query: Mapping[str, object]) -> str:
    """Return `?` and the parameters that are not empty; "" if all are empty."""
    given = {name: value for name, value in query.items() if value not in ("", None)}
    return f"?{urlencode(given)}" if given else ""
