"""Addresses of pages and assets, relative to the page that shows them: right below any prefix that a proxy adds."""

from collections.abc import Mapping
from urllib.parse import urlencode

from exporter.links import run_path
from exporter.pages.formatting import web_link


class Links:
    """Addresses on one page.

    Args:
        depth: How many folders the page is below the root.
        assets: Asset names with the version that is part of their address.
    """

    def __init__(self, depth: int, assets: Mapping[str, str]) -> None:
        self.root = "../" * depth or "./"
        self._assets = assets

    def asset(self, name: str) -> str:
        """A file of the pages themselves; the address changes with its content."""
        return f"{self.root}assets/{name}?v={self._assets[name]}"

    def page(self, path: str, fragment: str = "", **query: object) -> str:
        """A page by its path from the root, with those parameters that are not empty."""
        return f"{self.root}{path.lstrip('/')}{asked(query)}{fragment and f'#{fragment}'}"

    def run(self, source: str, run_id: str) -> str:
        """The page of a run."""
        return self.page(run_path(source, run_id))

    def log(self, source: str, run_id: str, step: str) -> str:
        """The page of a step's output; of the run's own error text, if `step` is ""."""
        return f"{self.run(source, run_id)}/log?{urlencode({'step': step})}"

    def runbook(self, kind: str) -> str:
        """What to do about an alert."""
        return self.page("runbooks", kind.lower())

    @staticmethod
    def vendor(url: str) -> str:
        """A vendor's page, "" if it has none that can be followed."""
        return web_link(url)


def asked(query: Mapping[str, object]) -> str:
    """A query with those parameters that are not empty, `?` before it; "" without any."""
    given = {name: value for name, value in query.items() if value not in ("", None)}
    return f"?{urlencode(given)}" if given else ""
