"""docs/runbooks.md as HTML."""

import itertools
import re

import msgspec
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from exporter import assets
from exporter.reports.errors import UnknownError

NO_SLUG = re.compile(r"[^\w\- ]")


def markdown() -> str:
    """The runbooks as they are written. Raises UnknownError where they are not installed."""
    try:
        return assets.read("docs/runbooks.md")
    except assets.AssetError as error:
        raise UnknownError(str(error)) from None


class Document(msgspec.Struct, frozen=True):
    """A rendered document. `contents`: anchor and text of each heading of the second level."""

    body: Markup
    contents: tuple[tuple[str, str], ...]


def document(markdown: str) -> Document:
    """Markdown as HTML in which every heading has an anchor; HTML in it is shown, not taken.

    The document is the project's own; its heading of the first level is left to the page.
    """
    machine = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = machine.parse(markdown)
    contents = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", slug(inline.content))
            if opening.tag == "h2":
                contents.append((slug(inline.content), inline.content))
    html = machine.renderer.render(_without_title(tokens), machine.options, {})
    return Document(Markup(html), tuple(contents))  # noqa: S704  # made by a renderer that escapes


def slug(heading: str) -> str:
    """The anchor of a heading, as code hosts make it: `JobrunOverdue` is `jobrunoverdue`."""
    return NO_SLUG.sub("", heading.strip().lower()).replace(" ", "-")


def _without_title(tokens: list[Token]) -> list[Token]:
    titled = bool(tokens) and tokens[0].type == "heading_open" and tokens[0].tag == "h1"
    return tokens[3:] if titled else tokens
