"""The OpenAPI document of `/api/v1`, made of the table of endpoints and of the records themselves."""

import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from exporter.web.api import ENDPOINTS, ROOT, Endpoint, ErrorReport
from exporter.web.questions import INSTANTS

Json = dict[str, Any]

REFUSALS = {
    400: "A parameter is wrong or not known.",
    405: "Only GET is answered.",
    429: "Too many requests; try again after `Retry-After` seconds.",
    500: "A fault of the exporter itself.",
    503: "Too much is asked at once, or the state cannot be read now; try again after `Retry-After` seconds.",
}

PATH_PARAMETERS = {"source": "The source's name.", "run_id": "The vendor's id of the run, percent-encoded."}

INSTANT = {"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


@functools.lru_cache(maxsize=1)
def document(version: str, external_url: str = "") -> bytes:
    """Return the document as JSON; paths in it are below the one of `external_url`."""
    return msgspec.json.format(msgspec.json.encode(described(version, external_url)), indent=2)


def described(version: str, external_url: str = "") -> Json:
    """Return the document."""
    records = [
        *(endpoint.answers for endpoint in ENDPOINTS),
        *(endpoint.question for endpoint in ENDPOINTS),
        ErrorReport,
    ]
    _, components = msgspec.json.schema_components(records, ref_template="#/components/schemas/{name}")
    questions = {endpoint.question.__name__: components.pop(endpoint.question.__name__, {}) for endpoint in ENDPOINTS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jobrun-exporter",
            "version": version,
            "description": "Job runs of hosted systems. Instants are Unix seconds, lengths seconds, null is unknown.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": urlsplit(external_url).path.rstrip("/") or "/"}],
        "paths": {
            ROOT + endpoint.path: {"get": _operation(endpoint, questions[endpoint.question.__name__])}
            for endpoint in ENDPOINTS
        },
        "components": {"schemas": {name: _with_attributes(schema) for name, schema in sorted(components.items())}},
    }


def _operation(endpoint: Endpoint, question: Json) -> Json:
    refusals = dict(sorted({**REFUSALS, **endpoint.refusals}.items()))
    return {
        "operationId": "_".join(re.findall(r"\w+", endpoint.path)),
        "summary": endpoint.summary,
        "parameters": [*_path_parameters(endpoint), *_parameters(_with_attributes(question))],
        "responses": {
            "200": {"description": "The answer.", "content": _content(endpoint.answers)},
            **{str(code): {"description": text, "content": _content(ErrorReport)} for code, text in refusals.items()},
        },
    }


def _content(record: type[msgspec.Struct]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{record.__name__}"}}}


def _path_parameters(endpoint: Endpoint) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", endpoint.path):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "description": PATH_PARAMETERS[name], "schema": schema}


def _parameters(question: Json) -> Iterable[Json]:
    for name, schema in question.get("properties", {}).items():
        yield {
            "name": name,
            "in": "query",
            "description": schema.get("description", ""),
            "schema": INSTANT if name in INSTANTS else _without_null(schema),
        }


def _without_null(schema: Json) -> Json:
    """A parameter that is not given is left out: there is no null in an address."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    kept = {key: value for key, value in schema.items() if key not in {"anyOf", "description"} and value is not None}
    return kept if not kinds else {**kept, **kinds[0]} if len(kinds) == 1 else {**kept, "anyOf": kinds}


def _with_attributes(schema: Json) -> Json:
    """A record's schema in which what the docstring says of its attributes stands with the properties."""
    text = inspect.cleandoc(schema.get("description", ""))
    head, _, listed = text.partition("\n\nAttributes:")
    said = {name: " ".join(words.replace("None", "null").split()) for name, words in _ATTRIBUTE.findall(listed)}
    properties = {
        name: {**each, "description": said[name]} if name in said else each
        for name, each in schema.get("properties", {}).items()
    }
    return {**schema, "description": " ".join(head.split()), **({"properties": properties} if properties else {})}
