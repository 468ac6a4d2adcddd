"""Parses the YAML of a config file. It checks keys and replaces `${VAR}`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from exporter.config.problems import ConfigError, ConfigProblem, path_of

Path = tuple[str | int, ...]
"""The keys and indexes that lead to a value, from the top of the document."""

_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}|\$\{")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_QUOTED = re.compile(r"'(?!<)[^' ]{3,}'")
"""Text of the file in PyYAML's messages, which may be part of a secret. `'<...>'` names a token instead."""

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class Document(NamedTuple):
    """A parsed file.

    Attributes:
        data: Dicts with text keys, lists and scalars.
        problems: Problems of keys and variables, in the order of the file.
        empty_variables: Names of the empty environment variables, by the path of the value that became empty.
    """

    data: Any
    problems: list[ConfigProblem]
    empty_variables: dict[str, str]


def parse(text: str, environ: Mapping[str, str] | None) -> Document:
    """Parse YAML, and replace `${VAR}` and `$$` (which stands for `$`) in its texts, unless `environ` is None.

    Raises:
        ConfigError: The text is not YAML.
    """
    document = Document({}, [], {})
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return document
        # Variables are replaced in nodes, not in the text, so that their values cannot change the structure.
        for path, node in _nodes(root, (), set()):
            if isinstance(node, yaml.MappingNode):
                document.problems.extend(_check_keys(node, path))
            elif isinstance(node, yaml.ScalarNode) and node.tag == _TEXT and environ is not None:
                _replace_variables(node, environ, path_of(path), document)
        return document._replace(data=loader.construct_document(root))
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, text)]) from None
    except RecursionError:
        raise ConfigError([ConfigProblem("", "not YAML: nested too deeply")]) from None
    except ValueError:  # PyYAML raises this for a text that looks like a date or a number but is invalid
        raise ConfigError([ConfigProblem("", "not YAML: an invalid date or number; put it in quotes")]) from None


_CURES = {
    "found undefined alias": "; put a value that begins with * in quotes",
    "but found another document": "; a config is one document: remove what comes after ---",
}
"""What to do about a syntax error, by PyYAML's message."""


def _syntax_problem(error: yaml.YAMLError, text: str) -> ConfigProblem:
    """Return place and reason of a syntax error. PyYAML's excerpts are removed, because they may contain a secret."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = ", ".join(filter(None, (error.context, error.problem)))
        cure = next((cure for message, cure in _CURES.items() if message in problem), "")
        return ConfigProblem("", f"not YAML{where}: {_QUOTED.sub('…', problem)}{cure}")
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return ConfigProblem(
            "", f"not YAML at line {line}: remove the control character U+{ord(text[error.position]):04X}"
        )
    return ConfigProblem("", "not YAML")


def _nodes(node: yaml.Node, path: Path, seen: set[int]) -> Iterator[tuple[Path, yaml.Node]]:
    """Yield a node and all nodes below it with their paths. A node with aliases has the path of its first use."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield path, node
    children: Iterator[tuple[str | int, yaml.Node]] = iter(())
    if isinstance(node, yaml.SequenceNode):
        children = enumerate(node.value)
    elif isinstance(node, yaml.MappingNode):
        children = ((key.value, value) for key, value in node.value)
    for key, child in children:
        yield from _nodes(child, (*path, key), seen)


def _check_keys(node: yaml.MappingNode, path: Path) -> Iterator[ConfigProblem]:
    """Yield a problem for each key that is given twice or is not text. Remove those that are not text."""
    lines: dict[str, int] = {}
    for key, value in list(node.value):
        name, line = key.value if isinstance(key, yaml.ScalarNode) else "?", key.start_mark.line + 1
        if key.tag not in {_TEXT, _MERGE}:
            node.value.remove((key, value))
            yield ConfigProblem(path_of((*path, name)), f"line {line}: a key must be text; put it in quotes")
        elif name in lines:
            yield ConfigProblem(path_of((*path, name)), f"given twice, in lines {lines[name]} and {line}")
        lines.setdefault(name, line)


def _replace_variables(node: yaml.ScalarNode, environ: Mapping[str, str], path: str, document: Document) -> None:
    """Replace variables in a node. Add problems to the document."""
    # A `${` without its `}` has the name "".
    names = [match[1] or "" for match in _VARIABLE.finditer(node.value) if match[0] != "$$"]
    if messages := [message for name in names if (message := _variable_problem(name, environ))]:
        document.problems.extend(ConfigProblem(path, message) for message in messages)
        return
    # A variable whose value was read from a file may begin with a byte order mark and end with line breaks.
    values = {name: environ[name].removeprefix("\ufeff").rstrip("\r\n") for name in names}
    node.value = _VARIABLE.sub(lambda match: values[match[1]] if match[1] else "$", node.value)
    if names and not node.value:
        document.empty_variables[path] = ", ".join(names)


def _variable_problem(name: str, environ: Mapping[str, str]) -> str:
    """Return why a variable cannot be replaced; "" if it can."""
    if not _VARIABLE_NAME.fullmatch(name):
        return "write a variable as ${NAME}, and $${ for the two characters ${ themselves"
    return "" if name in environ else f"the environment variable {name} is not set"
