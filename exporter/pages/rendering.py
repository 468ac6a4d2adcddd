"""Renders templates. Every variable is escaped, and a missing variable is an error."""

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.pages import formatting
from exporter.pages.style import look, tone
from exporter.pages.views import result_word

if TYPE_CHECKING:
    import jinja2

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
        self._always = always

    @cached_property
    def _templates(self) -> "jinja2.Environment":
        import jinja2  # noqa: PLC0415  # it takes 2 MB, which a daemon needs only once somebody looks at a page

        templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        templates.filters.update(FILTERS)
        templates.globals.update({**HELPERS, **self._always})
        return templates

    def page(self, template: str, variables: Mapping[str, Any]) -> bytes:
        """Return a page in UTF-8."""
        return self._templates.get_template(template).render(variables).encode()


def etag(page: bytes) -> str:
    """Return the ETag of a page. Ages are ignored, because they change all the time."""
    steady = AS_OF.sub(b"", AGES.sub(rb"\1", page))
    return f'"{hashlib.blake2b(steady, digest_size=12).hexdigest()}"'
