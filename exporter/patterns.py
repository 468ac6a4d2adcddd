"""Regular expressions of the config. They use RE2, which matches in linear time."""

import re
from typing import Any, Self

ANY_TEXT = frozenset({".*", "(?s).*"})
"""The default patterns. They match every text, also one with line breaks."""

_CLASSES = {"w": r"\p{L}\p{N}_", "d": r"\p{Nd}", "s": r"\p{Z}\t\n\v\f\r\x1c-\x1f\x85"}
"""Unicode equivalents of `\\w`, `\\d` and `\\s`, which match only ASCII characters in RE2."""

_TOKEN = re.compile(r"\\.|\[:\^?\w+:\]|\[\^?\]?|\]", re.DOTALL)
"""An escape, a class such as `[:alpha:]`, or the start or end of a bracket expression."""

_CURES = (
    (r"\(\?<?[=!]", "it has a lookahead or lookbehind: list unwanted names in exclude, or wanted ones with |"),
    (r"\\[1-9]|\(\?P=", "it has a backreference: write the text out"),
    (r"[*+?}]\+", "write a+ for a++"),
    (r"\(\?>", "write (?:…) for (?>…)"),
    (r"\(\?#|\(\?[a-zA-Z]*[aLux]", "it may have only the flags i, m and s, and no comments"),
    (r"\(\?\(", "it has a conditional: list the wanted names with |"),
    (r"\\[uUN]", r"write the character itself, or \x{263a}"),
    (r"^[*+?]|\|[*+?]", "write .* for any text"),
)
"""Patterns of syntax that Python supports but RE2 does not, each with what to write instead."""


class PatternError(ValueError):
    """The regular expression is invalid. The message has the reason, and what to write instead."""


class Pattern(str):
    """A regular expression. Thread-safe."""

    __slots__ = ("_compiled",)
    _compiled: Any

    def __new__(cls, pattern: str) -> Self:
        """Compile a regular expression. Raises PatternError."""
        self = super().__new__(cls, pattern)
        self._compiled = None if pattern in ANY_TEXT else _compiled(pattern)
        return self

    def fullmatch(self, text: str) -> bool:
        """Return whether it matches the whole text."""
        # A lone surrogate cannot be encoded.
        return self._compiled is None or self._compiled.fullmatch(text.encode("utf-8", "replace").decode()) is not None

    def __deepcopy__(self, _memory: object) -> Self:
        return self


def _compiled(pattern: str) -> Any:  # noqa: ANN401  # it has no stubs
    import re2  # type: ignore[import-untyped]  # noqa: PLC0415  # it takes 2 MB, which the defaults do not need

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(_with_unicode_classes(pattern), options)
    except (re2.error, ValueError) as error:
        raise PatternError(_explain(pattern, error)) from None


def _with_unicode_classes(pattern: str) -> str:
    r"""Return a pattern with Unicode classes instead of `\w`, `\d` and `\s`, and with `\z` instead of `\Z`."""
    in_brackets = False

    def replace(match: re.Match[str]) -> str:
        nonlocal in_brackets
        part = match[0]
        if part == "]" or (part[0] == "[" and not part.startswith("[:")):
            in_brackets = part[0] == "["
            return part
        if part[1] == "Z":
            return r"\z"
        known = _CLASSES.get(part[1].lower()) if part[0] == "\\" else None
        if known is None or (in_brackets and part[1].isupper()):
            return part
        return known if in_brackets else f"[{'^' if part[1].isupper() else ''}{known}]"

    return _TOKEN.sub(replace, pattern)


def _explain(pattern: str, error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    message = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else "it is not text"
    cure = next((cure for syntax, cure in _CURES if re.search(syntax, pattern)), "")
    return f"is not a regular expression (RE2): {message}" + (f"; {cure}" if cure else "")
