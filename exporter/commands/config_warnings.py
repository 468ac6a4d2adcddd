"""Warnings about values of a config that are valid but probably wrong."""

import re
from collections.abc import Iterator

from exporter.config import Config, ConfigProblem
from exporter.config.problems import path_of
from exporter.config.secret import Secret, SecretError
from exporter.config.section import Section
from exporter.config.source import SourceSettings
from exporter.config.values import is_loopback
from exporter.duration import format_duration, format_roughly
from exporter.snapshot.conditions import CREDENTIAL_WARNING
from exporter.sources import SOURCES

_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE_IN_TEXT = re.compile(r"(?<!\$)\$[A-Z][A-Z0-9_]{2,}")
_ASSIGNMENT = re.compile(r"(?:export\s+)?[A-Z][A-Z0-9_]*=[^=\s]")


def config_warnings(config: Config, now: float) -> Iterator[ConfigProblem]:
    """Yield the warnings about a config. `now`: Unix seconds."""
    for index, source in enumerate(config.sources):
        for key, message in _source_warnings(source, now):
            yield ConfigProblem(f"sources[{index}].{key}", message)
    names = [source.name for source in config.sources]
    for index, objective in enumerate(config.objectives):
        if not any(map(objective.match.source.fullmatch, names)):
            yield ConfigProblem(f"objectives[{index}].match.source", f"matches none of the sources: {', '.join(names)}")
    for path, value in _values(config, ()):
        if message := _secret_warning(value) if isinstance(value, Secret) else _text_warning(value):
            yield ConfigProblem(path, message)


def _source_warnings(source: SourceSettings, now: float) -> Iterator[tuple[str, str]]:
    """Yield the key and the text of each warning about a source."""
    if not source.jobs.include:
        yield "jobs.include", 'is empty: no job is watched; for all jobs write [".*"]'
    if source.base_url.startswith("http://") and not is_loopback(source.base_url):
        yield "base_url", "http without TLS: the credential and the responses can be read on the network"
    requests = SOURCES[source.type].poll_requests
    if (seconds := requests / source.requests_per_minute * 60) > source.poll_interval:
        longer = f"{requests} requests per poll at {source.requests_per_minute:g} requests_per_minute take longer"
        yield "poll_interval", f"{longer}: polls will come every {format_duration(seconds)}"
    if source.credential_expires is not None and (left := source.credential_expires - now) < CREDENTIAL_WARNING:
        when = f"expires in {format_roughly(left)}" if left > 0 else f"expired {format_roughly(-left)} ago"
        yield "credential_expires", f"the credential {when}: replace it"


def _values(value: object, keys: tuple[str | int, ...]) -> Iterator[tuple[str, object]]:
    """Yield all values of a section and of its subsections, with their paths."""
    if isinstance(value, Section):
        for name, child in vars(value).items():
            is_file = isinstance(child, Secret) and child.file is not None
            yield from _values(child, (*keys, f"{name}_file" if is_file else name))
    elif isinstance(value, tuple):
        for index, child in enumerate(value):
            yield from _values(child, (*keys, index))
    else:
        yield path_of(keys), value


def _text_warning(value: object) -> str:
    if isinstance(value, str) and (found := _VARIABLE.fullmatch(value) or _VARIABLE_IN_TEXT.search(value)):
        return f"{found[0]} is not replaced: write ${{{found[0][1:]}}}"
    return ""


def _secret_warning(secret: Secret) -> str:
    """Return why a secret is probably wrong, without showing it; "" if it looks right."""
    try:
        text = secret.reveal()
    except SecretError:  # reported as a problem, not as a warning
        return ""
    if _VARIABLE.fullmatch(text):
        return "looks like a variable that is not replaced: write ${…} with its name"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        return "begins and ends with quotes, which are sent too: remove them"
    if _ASSIGNMENT.match(text):
        return "looks like NAME=value: write the value alone"
    if text.casefold().startswith(("bearer ", "basic ", "authorization:")):
        return "begins like a header: write the secret alone"
    return ""
