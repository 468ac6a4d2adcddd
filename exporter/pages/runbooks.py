"""Renders docs/runbooks.md as HTML."""

import itertools
import re

import msgspec

from exporter import assets
from exporter.queries.errors import QueryError

NOT_IN_SLUG = re.compile(r"[^\w\- ]")


def read_runbooks() -> str:
    """Return the runbooks as Markdown. Raises QueryError if they are not installed."""
    try:
        return assets.read("docs/runbooks.md")
    except assets.AssetError as error:
        raise QueryError(404, str(error)) from None


class Runbooks(msgspec.Struct, frozen=True):
    """Rendered runbooks. `body`: markup. `contents`: anchor and text of each heading of the second level."""

    body: str
    contents: tuple[tuple[str, str], ...]


def render_runbooks(markdown: str) -> Runbooks:
    """Return Markdown as HTML with an anchor at every heading, and without its title, which the page has itself."""
    # Imported when first used, like the templates: most daemons serve no pages.
    from markdown_it import MarkdownIt  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    # The text is the project's own. HTML in it is escaped nevertheless.
    machine = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = machine.parse(markdown)
    contents = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", slug(inline.content))
            if opening.tag == "h2":
                contents.append((slug(inline.content), inline.content))
    titled = bool(tokens) and tokens[0].type == "heading_open" and tokens[0].tag == "h1"
    html = machine.renderer.render(tokens[3:] if titled else tokens, machine.options, {})
    return Runbooks(Markup(html), tuple(contents))  # noqa: S704  # made by a renderer that escapes


def slug(heading: str) -> str:
    """Return the anchor of a heading as code hosts make it: `JobrunOverdue` is `jobrunoverdue`."""
    return NOT_IN_SLUG.sub("", heading.strip().lower()).replace(" ", "-")
