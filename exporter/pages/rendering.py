"""Templates of pages. They escape every variable, and a missing variable is an error."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from exporter.links import run_path
from exporter.pages import formatting
from exporter.times import format_utc

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parents[1] / "templates"

FILTERS = {
    "age": formatting.age,
    "full_time": formatting.full_time,
    "duration": formatting.duration,
    "machine_time": format_utc,
    "visible": formatting.visible,
    "web_link": formatting.web_link,
}
HELPERS = {
    "look": formatting.look,
    "plural": formatting.plural,
    "result_word": formatting.result_word,
    "tone": formatting.tone,
}


@functools.cache
def templates() -> "jinja2.Environment":
    """Return the environment of all templates."""
    import jinja2  # noqa: PLC0415  # it takes 2 MB, which a daemon does not need until somebody opens a page

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(HELPERS)
    return environment


class Links:
    """Links of a page that is `depth` folders below the root. They are relative, so that a proxy may add a prefix."""

    def __init__(self, depth: int) -> None:
        self._root = "../" * depth or "./"

    def page(self, path: str, **query: object) -> str:
        """Return the link to a page or asset. `query`: parameters; empty ones are omitted."""
        given = {name: value for name, value in query.items() if value not in ("", None)}
        return self._root + path.lstrip("/") + (f"?{urlencode(given)}" if given else "")

    def run(self, source: str, run_id: str) -> str:
        """Return the link to a run."""
        return self.page(run_path(source, run_id))
