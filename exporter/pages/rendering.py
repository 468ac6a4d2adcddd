"""Templates to bytes. Everything is escaped; a variable that is missing is an error, not an empty place."""

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
"""Ages, which change by themselves; the script of the pages keeps them right."""
AS_OF = re.compile(rb'<time [^>]*id="as-of"[^>]*>[^<]*')
"""When the page was made."""

FILTERS = {
    "age": formatting.age,
    "full_time": formatting.full_time,
    "span": formatting.span,
    "machine_time": formatting.machine_time,
    "visible": formatting.visible,
}
HELPERS = {"look": look, "many": formatting.many, "result_word": result_word, "tone": tone}


class Renderer:
    """Makes pages. `always`: what every template may use."""

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
        """A page in UTF-8."""
        return self._templates.get_template(template).render(variables).encode()


def etag(page: bytes) -> str:
    """The same for pages that say the same, ages aside."""
    steady = AS_OF.sub(b"", AGES.sub(rb"\1", page))
    return f'"{hashlib.blake2b(steady, digest_size=12).hexdigest()}"'
