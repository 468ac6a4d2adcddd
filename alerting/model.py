"""Rules, and the YAML that they are written as."""

import textwrap

import msgspec

from exporter.snapshot.conditions import KINDS

RUNBOOKS = "https://github.com/jobrun-exporter/jobrun-exporter/blob/main/docs/runbooks.md"
"""Address of the runbooks. It works without a running exporter."""

WIDTH = 118


class Record(msgspec.Struct, frozen=True):
    """A recording rule; `why` becomes a comment."""

    name: str
    expression: str
    why: str = ""

    def text(self) -> str:
        """Return its YAML."""
        return f"{comment(self.why)}      - record: {self.name}\n        expr: |\n{block(self.expression, 10)}"


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An alerting rule.

    Attributes:
        name: A name in `conditions.KINDS`, which also has its severity and waiting times.
        expression: PromQL.
        summary: What and where, one line.
        description: What it means, in two sentences.
        severity: A template if it depends on the job; "" for the severity of the kind.
        blank: Labels of the expression that the alert does not get. The annotations may use them.
        extra: More annotations.
        links: Annotations in comments, by name. `assets --external-url --grafana-url` fills them in.
        why: A comment.
    """

    name: str
    expression: str
    summary: str
    description: str
    severity: str = ""
    blank: tuple[str, ...] = ()
    extra: dict[str, str] = {}
    links: dict[str, str] = {}
    why: str = ""

    def text(self) -> str:
        """Return its YAML."""
        kind = KINDS[self.name]
        lines = [f"      - alert: {self.name}", "        expr: |", block(self.expression, 10).rstrip("\n")]
        lines += [f"        for: {kind.wait}"] if kind.wait else []
        lines += [f"        keep_firing_for: {kind.keep}"] if kind.keep else []
        lines += ["        labels:", f"          severity: {scalar(self.severity or kind.severity)}"]
        lines += [f'          {label}: ""' for label in self.blank]
        lines += ["        annotations:", *folded("summary", self.summary), *folded("description", self.description)]
        lines += [f"          {name}: {scalar(value)}" for name, value in self.extra.items()]
        lines += [f"          runbook_url: {RUNBOOKS}#{self.name.lower()}"]
        lines += [f"          # {name}: {scalar(value)}" for name, value in self.links.items()]
        return comment(self.why) + "\n".join(lines) + "\n"


class Group(msgspec.Struct, frozen=True):
    """Rules that are evaluated together, in order."""

    name: str
    rules: tuple[Record | Alert, ...]
    interval: str = ""
    why: str = ""

    def text(self) -> str:
        """Return its YAML."""
        head = f"  - name: {self.name}\n" + (f"    interval: {self.interval}\n" if self.interval else "")
        why = textwrap.indent(comment(self.why, 0), "  ")
        return why + head + "    rules:\n" + "\n".join(rule.text() for rule in self.rules)


def comment(text: str, indent: int = 6) -> str:
    """Return a comment that fits the width, or nothing."""
    if not text:
        return ""
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - indent - 2)
    return "".join(f"{' ' * indent}# {line}\n" for line in lines)


def block(expression: str, indent: int) -> str:
    """Return an expression, indented as a block scalar needs it."""
    return textwrap.indent(textwrap.dedent(expression).strip("\n"), " " * indent) + "\n"


def folded(name: str, text: str) -> list[str]:
    """Return an annotation as a folded block scalar, with line breaks in place of some spaces."""
    words = text.replace("\n", " ").split(" ")
    lines, line = [], ""
    for word in words:
        if line and len(line) + 1 + len(word) > WIDTH - 12:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [f"          {name}: >-", *(f"            {each}" for each in (*lines, line))]


def scalar(value: str) -> str:
    """Return a one-line value: plain where YAML takes it as a text, else quoted."""
    return value if value.isalnum() else "'" + value.replace("'", "''") + "'"
