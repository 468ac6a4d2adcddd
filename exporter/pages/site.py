"""The pages over HTTP. What answers takes is asked and rendered on threads of its own, never on the event loop."""

from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from exporter.exposition.gzipped import deflated, member
from exporter.pages import views
from exporter.pages.links import Links
from exporter.pages.rendering import Renderer, etag
from exporter.pages.runbooks import document
from exporter.pages.static import Assets
from exporter.reports.errors import ReportError, UnknownError
from exporter.reports.records import Reports
from exporter.web.application import HTML_HEADERS
from exporter.web.negotiation import wants_gzip
from exporter.web.request_pool import RequestPool

REFRESH = 5
"""Seconds between two looks of a page at whether it is still right."""

WORTH_GZIP = 1024
"""Bytes from which compressing pays."""


class Asked(msgspec.Struct, frozen=True):
    """A request: the parts of its path, what its query gives, and the addresses as they are seen from its page."""

    request: Request
    parts: Sequence[str]
    query: Sequence[tuple[str, str]]
    links: Links


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be rendered. `refresh`: whether the page looks now and then whether it is still right."""

    template: str
    variables: dict[str, Any]
    refresh: bool = True
    status: int = 200


View = Callable[[Asked], Page | Response]


class Site:
    """All pages.

    Args:
        reports: What is shown.
        handling: Where answers are made.
        runbooks: Reads the runbooks' Markdown.
        version: Of the exporter.
        refresh: Seconds between two looks of a page at whether it is still right.
    """

    def __init__(
        self,
        reports: Reports,
        handling: RequestPool,
        runbooks: Callable[[], str],
        *,
        version: str,
        refresh: float = REFRESH,
    ) -> None:
        self._reports = reports
        self._runbooks = runbooks
        self._refresh = refresh
        self._assets = Assets()
        self._renderer = Renderer({"version": version})
        self._handling = handling

    @property
    def routes(self) -> list[BaseRoute]:
        """For `WebHandlers.routes`."""
        return [
            self._route("/", self._status),
            self._route("/runs", self._runs),
            self._route("/runs/{rest:path}", self._run_or_log),
            self._route("/runbooks", self._runbook),
            Route("/assets/{name}", self._assets.serve),
        ]

    def _route(self, path: str, view: View) -> Route:
        def handle(request: Request) -> Response:
            return self._answer(view, self._asked(request))

        return Route(path, self._handling.endpoint(handle, _refused))

    def _asked(self, request: Request) -> Asked:
        """Parts of a path are told apart before they are unquoted: a run's id may have a slash."""
        raw = (request.scope.get("raw_path") or request.url.path.encode()).decode("latin-1")
        parts = [unquote(part) for part in raw.lstrip("/").split("/")]
        given = [(name, text) for name, text in request.query_params.multi_items() if text]
        return Asked(request, parts, given, Links(len(parts) - 1, self._assets.versions))

    def _answer(self, view: View, asked: Asked) -> Response:
        try:
            page = view(asked)
        except ReportError as error:
            page = _failed(error)
        return page if isinstance(page, Response) else self._rendered(page, asked)

    def _rendered(self, page: Page, asked: Asked) -> Response:
        variables = {"links": asked.links, "now": self._reports.now, "refresh": self._refresh if page.refresh else 0}
        body = self._renderer.page(page.template, variables | page.variables)
        headers = HTML_HEADERS | {"Cache-Control": "no-store", "ETag": etag(body), "Vary": "Accept-Encoding"}
        if page.status == 200 and asked.request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        if len(body) >= WORTH_GZIP and wants_gzip(asked.request.headers.get("accept-encoding", "")):
            body, headers = member([body], [deflated(body)]), headers | {"Content-Encoding": "gzip"}
        return Response(body, page.status, headers | page.variables.get("headers", {}), "text/html")

    def _status(self, asked: Asked) -> Page:
        return Page(template="status.html", variables=views.status(self._reports, asked.query))

    def _runs(self, asked: Asked) -> Page | Response:
        found = views.runs(self._reports, asked.query)
        if isinstance(found, views.Elsewhere):
            return RedirectResponse(asked.links.run(found.run.source, found.run.run_id), 302, HTML_HEADERS)
        return Page(template="runs.html", variables=found)

    def _run_or_log(self, asked: Asked) -> Page:
        match asked.parts:
            case ["runs", source, run_id]:
                return Page(template="run.html", variables=views.run(self._reports, source, run_id))
            case ["runs", source, run_id, "log"]:
                variables = views.log(self._reports, source, run_id, asked.query)
                return Page(template="log.html", variables=variables, refresh=False)
        raise UnknownError("there is no such page")

    def _runbook(self, _: Asked) -> Page:
        """They are read each time: nobody asks often."""
        return Page(template="runbooks.html", variables={"document": document(self._runbooks())}, refresh=False)


def _failed(error: ReportError) -> Page:
    """The page for what could not be answered."""
    variables = {"status": error.status, "sentence": str(error), "headers": _headers(error)}
    return Page(template="error.html", variables=variables, refresh=False, status=error.status)


def _refused(error: ReportError) -> Response:
    """In a few plain words: there is no thread for more."""
    return PlainTextResponse(f"{error}\n", error.status, _headers(error))


def _headers(error: ReportError) -> dict[str, str]:
    return {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:.0f}"}
