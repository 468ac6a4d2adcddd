r"""Parses Prometheus selectors: `name{label="value", other=~"a|b"}`, with `=`, `!=`, `=~` and `!~`.

Values are in double or single quotes with `\` as escape character, or in backquotes without escapes. Regular
expressions match the whole value. All other syntax of PromQL is refused.
"""

import re
from collections.abc import Callable, Iterator, Mapping

import msgspec

NAME = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*")
PAIR = re.compile(
    r"""\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)\s*"""
)
END = re.compile(r"\s*}\s*")
ESCAPE = re.compile(
    r"""\\(?:(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2}|[abfnrtv\\"'])|.)""", re.DOTALL
)
"""An escape of Prometheus, which is also one of Python; group 1 is empty for any other."""

EXAMPLE = 'write it like jobrun_runs_total{job_name="x",result="failure"}'


class SelectorError(Exception):
    """The selector is invalid. The message says where and why."""


class Matcher(msgspec.Struct, frozen=True):
    """A condition for one label. A label that a series does not have is "", as in Prometheus."""

    label: str
    operator: str
    value: str

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series with these labels matches."""
        return OPERATORS[self.operator](labels.get(self.label, ""), self.value)


OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "=": lambda shown, wanted: shown == wanted,
    "!=": lambda shown, wanted: shown != wanted,
    "=~": lambda shown, wanted: re.fullmatch(wanted, shown, re.DOTALL) is not None,
    "!~": lambda shown, wanted: re.fullmatch(wanted, shown, re.DOTALL) is None,
}


class Selector(msgspec.Struct, frozen=True):
    """Name of a metric, and conditions for its labels."""

    name: str
    matchers: tuple[Matcher, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series with these labels matches."""
        return all(matcher.matches(labels) for matcher in self.matchers)

    def may_match(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series that has these labels, and others that are unknown, may match."""
        return all(matcher.matches(labels) for matcher in self.matchers if matcher.label in labels)


def parse(text: str) -> Selector:
    """Parse a selector. Raises SelectorError."""
    name = NAME.match(text)
    if name is None:
        raise SelectorError(f"it does not begin with a metric's name; {EXAMPLE}")
    rest = text[name.end() :]
    if not rest:
        return Selector(name[1])
    if rest[0] != "{":
        raise SelectorError(f"{_where(text, name.end())}: only {{labels}} can follow the name; {EXAMPLE}")
    return Selector(name[1], tuple(_matchers(text, name.end() + 1)))


def _matchers(text: str, position: int) -> Iterator[Matcher]:
    while not (end := END.match(text, position)):
        pair = PAIR.match(text, position)
        if pair is None:
            raise SelectorError(f'{_where(text, position)}: expected label="value" or }}; {EXAMPLE}')
        yield _matcher(*pair.groups())
        position = pair.end()
        if text[position : position + 1] == ",":
            position += 1
        elif text[position : position + 1] != "}":
            raise SelectorError(f"{_where(text, position)}: expected , or }}; {EXAMPLE}")
    if end.end() != len(text):
        raise SelectorError(f"{_where(text, end.end())}: nothing can follow }}; {EXAMPLE}")


def _matcher(label: str, operator: str, quoted: str) -> Matcher:
    value = quoted[1:-1] if quoted[0] == "`" else ESCAPE.sub(_unescaped, quoted[1:-1])
    if operator in {"=~", "!~"}:
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as error:  # such as `a{999999999999}` and many `(`
            raise SelectorError(f"{label}: not a regular expression: {error}") from None
    return Matcher(label, operator, value)


def _unescaped(escape: re.Match[str]) -> str:
    try:
        if escape[1]:
            return escape[0].encode().decode("unicode_escape")
    except UnicodeDecodeError:  # beyond the last character of Unicode
        pass
    raise SelectorError(f"{escape[0]} is not an escape; for a backslash write two, or use `backquotes`")


def _where(text: str, position: int) -> str:
    return f"at character {position + 1}, {text[position : position + 20]!r}" if text[position:] else "at its end"
