"""Regular expressions of the config, in the syntax of RE2, whose time to match is linear."""

import re
from typing import Any, Self

ANY_TEXT = frozenset({".*", "(?s).*"})
"""Patterns that match every text, also one with line breaks. They are the defaults."""

_CLASSES = {"w": r"\p{L}\p{N}_", "d": r"\p{Nd}", "s": r"\p{Z}\t\n\v\f\r\x1c-\x1f\x85"}
"""Unicode equivalents of `\\w`, `\\d` and `\\s`. In RE2 these classes are ASCII only."""

_TOKEN = re.compile(r"\\.|\[:\^?\w+:\]|\[\^?\]?|\]", re.DOTALL)

_INSTEAD = (
    (r"\(\?<?[=!]", "it looks ahead or behind: name what is not wanted in exclude, or list what is wanted with |"),
    (r"\\[1-9]|\(\?P=", "it refers back to a group: write the text out"),
    (r"[*+?}]\+", "write a+ for a++"),
    (r"\(\?>", "write (?:…) for (?>…)"),
    (r"\(\?#|\(\?[a-zA-Z]*[aLux]", "it may have the flags i, m and s only, and no comments"),
    (r"\(\?\(", "it has a condition: list what is wanted with |"),
    (r"\\[uUN]", r"write the character itself, or \x{263a}"),
    (r"^[*+?]|\|[*+?]", "write .* for any text"),
)
"""Syntax of Python that RE2 does not support, with the replacement to write."""


class PatternError(ValueError):
    """The text is not a valid regular expression. The message has the reason and the cure."""


class Pattern(str):
    """A regular expression. Thread-safe."""

    __slots__ = ("_compiled",)
    _compiled: Any

    def __new__(cls, pattern: str) -> Self:
        """Compile it. Raises PatternError."""
        self = super().__new__(cls, pattern)
        self._compiled = None if pattern in ANY_TEXT else _compiled(pattern)
        return self

    def fullmatch(self, text: str) -> bool:
        """Return whether it matches the whole text."""
        # "replace": a lone surrogate has no bytes in UTF-8
        return self._compiled is None or self._compiled.fullmatch(text.encode("utf-8", "replace").decode()) is not None

    def __deepcopy__(self, _memory: object) -> Self:
        return self


def _compiled(pattern: str) -> Any:  # noqa: ANN401  # it has no stubs
    import re2  # type: ignore[import-untyped]  # noqa: PLC0415  # it takes 2 MB, and the defaults need none of it

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(_beyond_ascii(pattern), options)
    except (re2.error, ValueError) as error:
        raise PatternError(_explained(pattern, error)) from None


def _beyond_ascii(pattern: str) -> str:
    """Return a pattern with Unicode classes instead of those that are ASCII only in RE2."""
    inside = False

    def swap(match: re.Match[str]) -> str:
        nonlocal inside
        part = match[0]
        if part == "]" or (part[0] == "[" and not part.startswith("[:")):
            inside = part[0] == "["
            return part
        if part[1] == "Z":
            return r"\z"
        known = _CLASSES.get(part[1].lower()) if part[0] == "\\" else None
        if known is None or (inside and part[1].isupper()):
            return part
        return known if inside else f"[{'^' if part[1].isupper() else ''}{known}]"

    return _TOKEN.sub(swap, pattern)


def _explained(pattern: str, error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    words = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else "it is not text"
    instead = next((hint for found, hint in _INSTEAD if re.search(found, pattern)), "")
    return f"is not a regular expression (RE2): {words}" + (f"; {instead}" if instead else "")
