"""Renders docs/runbooks.md as HTML."""

import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

NOT_IN_SLUG = re.compile(r"[^\w\- ]")


def render_runbooks(markdown: str) -> dict[str, object]:
    """Return variables of the page: `body` has the HTML without its title, `contents` anchor and text of each h2."""
    # Imported when first used, because many daemons never serve this page.
    from markdown_it import MarkdownIt  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    contents = list(_with_anchors(tokens))
    has_title = bool(tokens) and tokens[0].type == "heading_open" and tokens[0].tag == "h1"
    html = parser.renderer.render(tokens[3:] if has_title else tokens, parser.options, {})
    return {"body": Markup(html), "contents": contents}  # noqa: S704  # the renderer escapes HTML in the text


def _with_anchors(tokens: "list[Token]") -> Iterator[tuple[str, str]]:
    """Add an anchor to every heading. Yield anchor and text of each h2."""
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", slug(inline.content))
            if opening.tag == "h2":
                yield slug(inline.content), inline.content


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub makes it: `jobrunoverdue` for `JobrunOverdue`."""
    return NOT_IN_SLUG.sub("", heading.strip().lower()).replace(" ", "-")
