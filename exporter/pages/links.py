"""Links to pages and assets, relative to the page that has them: they work below any prefix that a proxy adds."""

from collections.abc import Mapping
from urllib.parse import urlencode

from exporter.links import run_path
from exporter.pages.formatting import web_link


class Links:
    """Links on a page that is `depth` folders below the root. `assets`: their versions by name."""

    def __init__(self, depth: int, assets: Mapping[str, str]) -> None:
        # never absolute: a proxy may serve the pages below any prefix
        self.root = "../" * depth or "./"
        self._assets = assets

    def asset(self, name: str) -> str:
        """Return the link to an asset; it changes with the content."""
        return f"{self.root}assets/{name}?v={self._assets[name]}"

    def page(self, path: str, fragment: str = "", **query: object) -> str:
        """Return the link to a page by its path from the root, with those parameters that are not empty."""
        return f"{self.root}{path.lstrip('/')}{query_string(query)}{fragment and f'#{fragment}'}"

    def run(self, source: str, run_id: str) -> str:
        """Return the link to a run."""
        return self.page(run_path(source, run_id))

    def log(self, source: str, run_id: str, step: str) -> str:
        """Return the link to the output of a step; to the error text of the run if `step` is ""."""
        return f"{self.run(source, run_id)}/log?{urlencode({'step': step})}"

    def runbook(self, kind: str) -> str:
        """Return the link to the runbook of an alert."""
        return self.page("runbooks", kind.lower())

    @staticmethod
    def vendor(url: str) -> str:
        """Return the link to a vendor's page; "" if it must not be followed."""
        return web_link(url)


def query_string(query: Mapping[str, object]) -> str:
    """Return `?` and those parameters that are not empty; "" if all are."""
    given = {name: value for name, value in query.items() if value not in ("", None)}
    return f"?{urlencode(given)}" if given else ""
