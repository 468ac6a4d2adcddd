"""The pages as JSON under `/api/v1`: a table of endpoints, each with its parameters and its response."""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter.queries.errors import InvalidParameterError, ReportError, UnknownError
from exporter.queries.filters import JobQuery, RunQuery, doc
from exporter.queries.records import JobList, LogReport, Problem, RunList, RunPage, SourceReport
from exporter.queries.reporter import Reporter
from exporter.web.parameters import parse
from exporter.web.request_pool import RequestPool, segments

ROOT = "/api/v1"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class SourceList(msgspec.Struct, frozen=True):
    """All sources. `now`: the exporter's clock."""

    now: float
    sources: tuple[SourceReport, ...]


class ProblemList(msgspec.Struct, frozen=True):
    """Current problems, the most urgent first. `now`: the exporter's clock."""

    now: float
    problems: tuple[Problem, ...]


class ErrorReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request failed. `parameter`: the parameter that is invalid."""

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


class Endpoint(msgspec.Struct, frozen=True):
    """One endpoint."""

    path: Annotated[str, doc("Path below ROOT. The parts in braces are arguments of `respond`.")]
    summary: Annotated[str, doc("Sentence about the response.")]
    parameters: Annotated[type[msgspec.Struct], doc("Its query parameters.")]
    response: Annotated[type[msgspec.Struct], doc("Type of the response.")]
    respond: Annotated[Callable[..., msgspec.Struct], doc("Returns the response.")]
    errors: Annotated[Mapping[int, str], doc("The status codes that only this endpoint returns, and when.")] = {}


ENDPOINTS = (
    Endpoint(
        "/sources",
        "Status of each source.",
        NoParameters,
        SourceList,
        lambda reports, _: SourceList(reports.now, reports.sources()),
    ),
    Endpoint("/jobs", "Jobs, by default the most urgent first.", JobQuery, JobList, lambda reports, q: reports.jobs(q)),
    Endpoint(
        "/problems",
        "Current problems, the most urgent first.",
        NoParameters,
        ProblemList,
        lambda reports, _: ProblemList(reports.now, reports.problems()),
    ),
    Endpoint(
        "/runs",
        "Runs: active ones first, then completed ones by end, newest first.",
        RunQuery,
        RunList,
        lambda reports, q: reports.runs(q),
    ),
    Endpoint(
        "/runs/{source}/{run_id}",
        "One run with its steps, its job and the runs before it.",
        RunParameters,
        RunPage,
        lambda reports, q, source, run_id: reports.run(source, run_id, live=q.live),
        {404: "The state has no such run."},
    ),
    Endpoint(
        "/runs/{source}/{run_id}/log",
        "Output of a step, or the error text of a run, fetched from the vendor's API and never stored.",
        LogParameters,
        LogReport,
        lambda reports, q, source, run_id: reports.log(source, run_id, q.step),
        {
            403: "Output is shown only with `web.logs: true`.",
            404: "The run does not exist, or the vendor's API has no output of it.",
            502: "The vendor's API did not return a usable response.",
        },
    ),
)


def routes(reports: Reporter, pool: RequestPool, document: Callable[[], bytes]) -> list[Route]:
    """Return the routes of the API. `document`: returns the content of `/openapi.json`."""

    def handle(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return error_response(ReportError("only GET is allowed"), 405, {"Allow": "GET, HEAD"})
        parts = segments(request, ROOT)
        if parts == ["openapi.json"]:
            return _json(document())
        endpoint, values = find(parts)
        parameters = parse(request.url.query, endpoint.parameters)
        return _json(msgspec.json.encode(endpoint.respond(reports, parameters, *values)))

    return [pool.route(ROOT + "/{rest:path}", handle, error_response, every_method=True)]


def find(parts: list[str]) -> tuple[Endpoint, list[str]]:
    """Return the endpoint of a path, and the values of its parts in braces. Raises UnknownError."""
    for endpoint in ENDPOINTS:
        names = endpoint.path.strip("/").split("/")
        if len(names) == len(parts):
            pairs = list(zip(names, parts, strict=True))
            if all(name.startswith("{") or name == part for name, part in pairs):
                return endpoint, [part for name, part in pairs if name.startswith("{")]
    raise UnknownError(f"no such endpoint; {ROOT}/openapi.json lists all")


def error_response(error: ReportError, status: int = 0, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response that reports an error."""
    parameter = error.parameter if isinstance(error, InvalidParameterError) else ""
    body = msgspec.json.encode(ErrorReport(str(error), parameter))
    return _json(body, status or error.status, {**error.headers, **(headers or {})})


def _json(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, {**HEADERS, **(headers or {})}, "application/json")
