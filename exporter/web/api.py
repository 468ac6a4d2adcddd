"""The JSON API `/api/v1`: a table of endpoints, each with its parameters and its response."""

from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter.queries.errors import QueryError
from exporter.queries.filters import JobQuery, RunQuery, doc, parse
from exporter.queries.records import JobList, LogReport, Problem, RunList, RunPage, SourceReport
from exporter.queries.reporter import Reporter
from exporter.web.request_pool import RequestPool, segments

ROOT = "/api/v1"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class SourceList(msgspec.Struct, frozen=True):
    """All sources. `now`: current time of the exporter."""

    now: float
    sources: tuple[SourceReport, ...]


class ProblemList(msgspec.Struct, frozen=True):
    """Current problems, the most urgent first. `now`: current time of the exporter."""

    now: float
    problems: tuple[Problem, ...]


class ErrorReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request failed. `parameter`: the invalid parameter, if that is the reason."""

    error: str
    parameter: str = ""


class NoParameters(msgspec.Struct, frozen=True):
    """No parameters."""


class RunParameters(msgspec.Struct, frozen=True):
    """How to show a run."""

    live: Annotated[bool, doc("Whether to fetch its steps from the vendor's API, for at most a few seconds.")] = False


class LogParameters(msgspec.Struct, frozen=True):
    """Which output to show."""

    step: Annotated[str, doc('Name of the step; "" for the error text of the run.')] = ""


class Endpoint(NamedTuple):
    """One endpoint.

    Attributes:
        path: Path below ROOT. Its parameters are in braces.
        respond: Returns the response for a reporter, the query's parameters, and the path's parameters.
        errors: Status codes that only this endpoint returns, and when.
    """

    path: str
    summary: str
    parameters: type[msgspec.Struct]
    response: type[msgspec.Struct]
    respond: Callable[..., msgspec.Struct]
    errors: Mapping[int, str] = {}


ENDPOINTS = (
    Endpoint(
        "/sources",
        "Status of each source.",
        NoParameters,
        SourceList,
        lambda reporter, _: SourceList(reporter.now, reporter.sources()),
    ),
    Endpoint(
        "/jobs",
        "Jobs, by default the most urgent first.",
        JobQuery,
        JobList,
        lambda reporter, query: reporter.jobs(query),
    ),
    Endpoint(
        "/problems",
        "Current problems, the most urgent first.",
        NoParameters,
        ProblemList,
        lambda reporter, _: ProblemList(reporter.now, reporter.problems()),
    ),
    Endpoint(
        "/runs",
        "Runs: active ones first, then completed ones by end, newest first.",
        RunQuery,
        RunList,
        lambda reporter, query: reporter.runs(query),
    ),
    Endpoint(
        "/runs/{source}/{run_id}",
        "One run with its steps, its job and the runs before it.",
        RunParameters,
        RunPage,
        lambda reporter, query, source, run_id: reporter.run(source, run_id, live=query.live),
        {404: "The state has no such run."},
    ),
    Endpoint(
        "/runs/{source}/{run_id}/log",
        "Output of a step, or the error text of a run, fetched from the vendor's API and never stored.",
        LogParameters,
        LogReport,
        lambda reporter, query, source, run_id: reporter.log(source, run_id, query.step),
        {
            403: "Output is shown only with `web.logs: true`.",
            404: "The run does not exist, or the vendor's API has no output of it.",
            502: "The vendor's API did not return a usable response.",
        },
    ),
)


def route(reporter: Reporter, pool: RequestPool, document: Callable[[], bytes]) -> Route:
    """Return the route of all endpoints. `document`: returns the content of `/openapi.json`."""

    def handle(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            raise QueryError(405, "only GET is allowed")
        parts = segments(request, ROOT)
        if parts == ["openapi.json"]:
            return _json(document())
        endpoint, path_parameters = _find(parts)
        parameters = parse(request.url.query, endpoint.parameters)
        return _json(msgspec.json.encode(endpoint.respond(reporter, parameters, *path_parameters)))

    return pool.route(ROOT + "/{rest:path}", handle, _error_response, every_method=True)


def _find(parts: list[str]) -> tuple[Endpoint, list[str]]:
    """Return the endpoint of a path, and the path's parameters."""
    for endpoint in ENDPOINTS:
        names = endpoint.path.strip("/").split("/")
        if len(names) == len(parts):
            pairs = list(zip(names, parts, strict=True))
            if all(name.startswith("{") or name == part for name, part in pairs):
                return endpoint, [part for name, part in pairs if name.startswith("{")]
    raise QueryError(404, f"no such endpoint; {ROOT}/openapi.json lists all")


def _error_response(error: QueryError) -> Response:
    return _json(msgspec.json.encode(ErrorReport(str(error), error.parameter)), error.status, error.headers)


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, {**HEADERS, **(headers or {})}, "application/json")
