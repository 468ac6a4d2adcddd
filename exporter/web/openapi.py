"""Builds the OpenAPI document of `/api/v1` from the table of endpoints and the records."""

import functools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from exporter.queries.filters import TIMES
from exporter.web.api import ENDPOINTS, ROOT, Endpoint, ErrorReport

Json = dict[str, Any]

ERRORS = {
    400: "A parameter is invalid or unknown.",
    405: "Only GET is allowed.",
    429: "Too many requests; try again after `Retry-After` seconds.",
    500: "Internal error; the log has the details.",
    503: "Too many requests at once, or the state cannot be read now; try again after `Retry-After` seconds.",
}

PATH_PARAMETERS = {"source": "Name of the source.", "run_id": "The vendor's ID of the run, percent-encoded."}

TIME = {"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}


@functools.lru_cache(maxsize=1)
def document(version: str, external_url: str = "") -> bytes:
    """Return the document as JSON. `external_url`: its path is put before all paths."""
    return msgspec.json.format(msgspec.json.encode(_document(version, external_url)), indent=2)


def _document(version: str, external_url: str) -> Json:
    types = [ErrorReport, *(each for endpoint in ENDPOINTS for each in (endpoint.response, endpoint.parameters))]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    # Each endpoint describes its own parameters, so they are not components.
    parameters = {name: schemas.pop(name, {}) for name in (endpoint.parameters.__name__ for endpoint in ENDPOINTS)}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jobrun-exporter",
            "version": version,
            "description": "Job runs of hosted systems. Times are Unix seconds, durations seconds; null is unknown.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": urlsplit(external_url).path.rstrip("/") or "/"}],
        "paths": {
            ROOT + endpoint.path: {"get": _operation(endpoint, parameters[endpoint.parameters.__name__])}
            for endpoint in ENDPOINTS
        },
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _operation(endpoint: Endpoint, parameters: Json) -> Json:
    errors = dict(sorted({**ERRORS, **endpoint.errors}.items()))
    return {
        "operationId": "_".join(re.findall(r"\w+", endpoint.path)),
        "summary": endpoint.summary,
        "parameters": list(_parameters(endpoint, parameters)),
        "responses": {
            "200": {"description": "The response.", "content": _content(endpoint.response)},
            **{str(code): {"description": text, "content": _content(ErrorReport)} for code, text in errors.items()},
        },
    }


def _content(response: type[msgspec.Struct]) -> Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{response.__name__}"}}}


def _parameters(endpoint: Endpoint, in_query: Json) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", endpoint.path):
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "description": PATH_PARAMETERS[name], "schema": schema}
    for name, schema in in_query.get("properties", {}).items():
        kind = TIME if name in TIMES else _without_null(schema)
        yield {"name": name, "in": "query", "description": schema.get("description", ""), "schema": kind}


def _without_null(schema: Json) -> Json:
    # A query string cannot contain null. The parameter is omitted instead.
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    kept = {key: value for key, value in schema.items() if key not in {"anyOf", "description"} and value is not None}
    return kept if not kinds else {**kept, **kinds[0]} if len(kinds) == 1 else {**kept, "anyOf": kinds}
