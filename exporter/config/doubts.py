"""Finds values that are valid but probably wrong."""

import re
from collections.abc import Iterator

from exporter.config.problems import path_of
from exporter.config.secret import Secret, SecretError
from exporter.config.section import Section

_BARE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_BARE_WITHIN = re.compile(r"(?<!\$)\$[A-Z][A-Z0-9_]{2,}")
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Z][A-Z0-9_]*=[^=\s]")


def values_of(value: object, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[str, object]]:
    """Yield all values of a section and of its subsections, with their paths."""
    if isinstance(value, Section):
        for name, below in vars(value).items():
            is_file = isinstance(below, Secret) and below.file is not None
            yield from values_of(below, (*keys, f"{name}_file" if is_file else name))
    elif isinstance(value, tuple):
        for index, below in enumerate(value):
            yield from values_of(below, (*keys, index))
    else:
        yield path_of(keys), value


def doubt_of(value: object) -> str:
    """Return why a value is probably wrong; "" if it looks right. The text never contains a secret."""
    if isinstance(value, Secret):
        try:
            return _doubt_of_secret(value.reveal())
        except SecretError:  # reported as a problem, not as a warning
            return ""
    if isinstance(value, str) and (found := _BARE.fullmatch(value) or _BARE_WITHIN.search(value)):
        return f"{found[0]} is not replaced: write ${{{found[0][1:]}}}"
    return ""


def _doubt_of_secret(text: str) -> str:
    if _BARE.fullmatch(text):
        return "looks like a variable that is not replaced: write ${…} with its name"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        return "begins and ends with quotes, which are sent too: remove them"
    if _ASSIGNMENT.match(text):
        return "looks like NAME=value: write the value alone"
    if text.casefold().startswith(("bearer ", "basic ", "authorization:")):
        return "begins like a header: write the secret alone"
    return ""
