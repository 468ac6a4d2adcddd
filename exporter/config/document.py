"""Parses the YAML of a config file. It checks keys and replaces `${VAR}`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from exporter.config.problems import ConfigError, ConfigProblem, path_of

Path = tuple[str | int, ...]
"""The keys and indexes that lead to a value, from the top of the document."""

_VARIABLE = re.compile(r"\$\$|\$\{([^}]*)\}|\$\{")
MAX_VALUES = 100_000
"""Maximum number of values in a file. A few lines with nested aliases could create billions."""

_QUOTED = re.compile(r"'(?!<)[^' ]{3,}'")
"""Words that PyYAML quotes from the file. They may be part of a secret. `'<token>'` is PyYAML's own."""

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Document(NamedTuple):
    """A parsed file.

    Attributes:
        data: Dicts with text keys, lists and scalars.
        problems: Problems of keys and variables.
        empty_variables: By the path of a value that became empty: the environment variable that was empty.
    """

    data: Any
    problems: list[ConfigProblem]
    empty_variables: dict[str, str]


def parse(text: str, environ: Mapping[str, str] | None) -> Document:
    """Parse YAML, then replace `${VAR}` and `$$` (which stands for `$`) in its texts, unless `environ` is None.

    Raises:
        ConfigError: The text is not YAML.
    """
    # Variables are replaced after parsing, so that their values cannot change the structure.
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document({}, [], {})
        if _size(node, {}) > MAX_VALUES:
            raise ConfigError([ConfigProblem("", f"more than {MAX_VALUES} values, each alias (*) counted in full")])
        document = Document(loader.construct_document(node), list(_key_problems(node, ())), {})
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, text)]) from None
    except RecursionError:
        raise ConfigError([ConfigProblem("", "not YAML: nested too deeply")]) from None
    except ValueError:  # PyYAML raises this for a text that looks like a date or a number but is invalid
        raise ConfigError([ConfigProblem("", "not YAML: an invalid date or number; put it in quotes")]) from None
    return (
        document
        if environ is None
        else document._replace(data=_replace_variables(document.data, environ, (), document))
    )


_CURES = {
    "found undefined alias": "; put a value that begins with * in quotes",
    "but found another document": "; a config is one document: remove what comes after ---",
}
"""What to do about a syntax error, by PyYAML's message."""


def _syntax_problem(error: yaml.YAMLError, text: str) -> ConfigProblem:
    """Return the place of a syntax error and its reason, without PyYAML's excerpts, which may contain a secret."""
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


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values in a node, including itself. Each alias counts as much as its target."""
    if known.get(id(node)) == 0:  # the node contains itself
        raise yaml.MarkedYAMLError(problem="a value refers to itself", problem_mark=node.start_mark)
    if id(node) not in known:
        known[id(node)] = 0
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        children = (child for part in parts for child in (part if isinstance(part, tuple) else (part,)))
        known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _key_problems(node: yaml.Node, path: Path) -> Iterator[ConfigProblem]:
    """Yield a problem for each key that is given twice or is not text, in the order of the file."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _key_problems(item, (*path, index))
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = key.value if isinstance(key, yaml.ScalarNode) else "?", key.start_mark.line + 1
            below = (*path, name)
            if key.tag not in {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}:
                yield ConfigProblem(path_of(below), f"line {line}: a key must be text; put it in quotes")
            elif name in lines:
                yield ConfigProblem(path_of(below), f"given twice, in lines {lines[name]} and {line}")
            lines.setdefault(name, line)
            yield from _key_problems(value, below)


def _replace_variables(data: Any, environ: Mapping[str, str], path: Path, document: Document) -> Any:  # noqa: ANN401  # YAML
    """Return the data with variables replaced. Add their problems to the document."""
    if isinstance(data, dict):
        texts = [key for key in data if isinstance(key, str)]
        return {key: _replace_variables(data[key], environ, (*path, key), document) for key in texts}
    if isinstance(data, list):
        return [_replace_variables(item, environ, (*path, index), document) for index, item in enumerate(data)]
    if not isinstance(data, str):
        return data
    # A brace without its counterpart has the name "".
    names = [match[1] or "" for match in _VARIABLE.finditer(data) if match[0] != "$$"]
    if messages := [message for name in names if (message := _variable_problem(name, environ))]:
        document.problems.extend(ConfigProblem(path_of(path), message) for message in messages)
        return data
    # A variable whose value was read from a file may begin with a byte order mark and end with line breaks.
    values = {name: environ[name].removeprefix("\ufeff").rstrip("\r\n") for name in names}
    text = _VARIABLE.sub(lambda match: values[match[1]] if match[1] else "$", data)
    if data and not text:
        document.empty_variables[path_of(path)] = ", ".join(names)
    return text


def _variable_problem(name: str, environ: Mapping[str, str]) -> str:
    """Return why a variable cannot be replaced; "" if it can."""
    if not _VARIABLE_NAME.fullmatch(name):
        return "${ must be followed by the name of a variable and }; write $${ for the characters themselves"
    return "" if name in environ else f"the environment variable {name} is not set"
