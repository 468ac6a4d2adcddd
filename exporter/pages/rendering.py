"""Renders templates. Every variable is escaped; a missing variable is an error, not an empty text."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from exporter.pages import formatting
from exporter.pages.style import look, tone
from exporter.pages.views import result_word

TEMPLATES = Path(__file__).parents[1] / "templates"

AGES = re.compile(rb"(<time [^>]*data-age[^>]*>)[^<]*")
"""Ages, which the script of the pages updates."""
AS_OF = re.compile(rb'<time [^>]*id="as-of"[^>]*>[^<]*')
"""The time of the page."""

FILTERS = {
    "age": formatting.age,
    "full_time": formatting.full_time,
    "duration": formatting.duration,
    "machine_time": formatting.machine_time,
    "visible": formatting.visible,
}
HELPERS = {"look": look, "plural": formatting.plural, "result_word": result_word, "tone": tone}


class Renderer:
    """Renders pages. `always`: variables of every template."""

    def __init__(self, always: Mapping[str, Any]) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(FILTERS)
        self._templates.globals.update(HELPERS)
        self._templates.globals.update(always)

    def page(self, template: str, variables: Mapping[str, Any]) -> bytes:
        """Return a page in UTF-8."""
        return self._templates.get_template(template).render(variables).encode()


def etag(page: bytes) -> str:
    """Return an ETag that is the same for pages that differ in ages only."""
    # ages change by themselves, so they must not make an unchanged page look new
    steady = AS_OF.sub(b"", AGES.sub(rb"\1", page))
    return f'"{hashlib.blake2b(steady, digest_size=12).hexdigest()}"'
