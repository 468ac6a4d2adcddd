"""Templates of pages. They escape every variable, and a missing variable is an error."""

import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.pages import formatting
from exporter.pages.style import look, tone
from exporter.pages.views import result_word
from exporter.times import format_utc

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parents[1] / "templates"

AGE = re.compile(rb"(<time [^>]*data-age[^>]*>)[^<]*")
"""A relative time, which the page's script updates."""
AS_OF = re.compile(rb'<time [^>]*id="as-of"[^>]*>[^<]*')
"""The time at which the page was rendered."""

FILTERS = {
    "age": formatting.age,
    "full_time": formatting.full_time,
    "duration": formatting.duration,
    "machine_time": format_utc,
    "visible": formatting.visible,
}
HELPERS = {"look": look, "plural": formatting.plural, "result_word": result_word, "tone": tone}


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


def etag(page: bytes) -> str:
    """Return the ETag of a page. It ignores relative times, because they change all the time."""
    unchanging = AS_OF.sub(b"", AGE.sub(rb"\1", page))
    return f'"{hashlib.blake2b(unchanging, digest_size=12).hexdigest()}"'
