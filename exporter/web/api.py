"""The pages as JSON under `/api/v1`: a table of endpoints, each a question and its answer."""

from collections.abc import Callable, Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter.reports.errors import BadQuestionError, ReportError, UnknownError
from exporter.reports.filters import JobFilter, RunFilter
from exporter.reports.records import JobList, LogReport, Problem, Reports, RunList, RunPage, SourceReport
from exporter.web.questions import parse
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
    """What is wrong now, the most urgent first. `now`: the exporter's clock."""

    now: float
    problems: tuple[Problem, ...]


class ErrorReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why there is no answer. `parameter`: which part of the question is wrong."""

    error: str
    parameter: str = ""


class NoQuestion(msgspec.Struct, frozen=True):
    """No parameters."""


class RunQuestion(msgspec.Struct, frozen=True):
    """How a run is shown.

    Attributes:
        live: Whether its steps are asked of the vendor's API, for a few seconds at most.
    """

    live: bool = False


class LogQuestion(msgspec.Struct, frozen=True):
    """Which output.

    Attributes:
        step: The name of the step; "" for the error text of the run itself.
    """

    step: str = ""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint.

    Attributes:
        path: Below ROOT; parts in braces are handed to `answer`.
        summary: What it tells.
        question: Its parameters.
        answers: What it answers with.
        answer: Gives the answer.
        refusals: Further codes with which it can refuse, and when.
    """

    path: str
    summary: str
    question: type[msgspec.Struct]
    answers: type[msgspec.Struct]
    answer: Callable[..., msgspec.Struct]
    refusals: Mapping[int, str] = {}


NO_RUN = {404: "The state holds no such run."}

ENDPOINTS = (
    Endpoint(
        path="/sources",
        summary="How each source stands.",
        question=NoQuestion,
        answers=SourceList,
        answer=lambda reports, _: SourceList(reports.now, reports.sources()),
    ),
    Endpoint(
        path="/jobs",
        summary="Jobs, the most urgent first unless another order is asked for.",
        question=JobFilter,
        answers=JobList,
        answer=lambda reports, question: reports.jobs(question),
    ),
    Endpoint(
        path="/problems",
        summary="What is wrong now, the most urgent first.",
        question=NoQuestion,
        answers=ProblemList,
        answer=lambda reports, _: ProblemList(reports.now, reports.problems()),
    ),
    Endpoint(
        path="/runs",
        summary="Runs: open ones first, then the ended by end, newest first.",
        question=RunFilter,
        answers=RunList,
        answer=lambda reports, question: reports.runs(question),
    ),
    Endpoint(
        path="/runs/{source}/{run_id}",
        summary="One run with its steps, its job and the runs before it.",
        question=RunQuestion,
        answers=RunPage,
        answer=lambda reports, question, source, run_id: reports.run(source, run_id, live=question.live),
        refusals=NO_RUN,
    ),
    Endpoint(
        path="/runs/{source}/{run_id}/log",
        summary="Output of a step, or the error text of a run, asked of the vendor's API and stored nowhere.",
        question=LogQuestion,
        answers=LogReport,
        answer=lambda reports, question, source, run_id: reports.log(source, run_id, question.step),
        refusals={
            403: "Output is shown only with `web.logs: true`.",
            404: "There is no such run, or its vendor's API has no output of it.",
            502: "The vendor's API gave no usable answer.",
        },
    ),
)


def routes(reports: Reports, handling: RequestPool, document: Callable[[], bytes]) -> list[Route]:
    """The routes. `document`: makes what `/openapi.json` shows."""

    def answer(request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return refusal(ReportError("only GET is answered here"), 405, {"Allow": "GET, HEAD"})
        parts = segments(request, ROOT)
        if parts == ["openapi.json"]:
            return _response(document())
        endpoint, values = find(parts)
        question = parse(request.url.query, endpoint.question)
        return _response(msgspec.json.encode(endpoint.answer(reports, question, *values)))

    return [handling.below(ROOT, answer, refusal)]


def find(parts: list[str]) -> tuple[Endpoint, list[str]]:
    """The endpoint of a path, and the values of what it has in braces. Raises UnknownError."""
    for endpoint in ENDPOINTS:
        wanted = endpoint.path.strip("/").split("/")
        values = [part for name, part in zip(wanted, parts, strict=False) if name.startswith("{")]
        if len(wanted) == len(parts) and all(
            name.startswith("{") or name == part for name, part in zip(wanted, parts, strict=True)
        ):
            return endpoint, values
    raise UnknownError(f"there is no such page; {ROOT}/openapi.json lists all")


def refusal(error: ReportError, status: int = 0, headers: Mapping[str, str] | None = None) -> Response:
    """Why there is no answer."""
    parameter = error.parameter if isinstance(error, BadQuestionError) else ""
    again = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:.0f}"}
    body = msgspec.json.encode(ErrorReport(str(error), parameter))
    return _response(body, status or error.status, {**again, **(headers or {})})


def _response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(body, status, {**HEADERS, **(headers or {})}, "application/json")
