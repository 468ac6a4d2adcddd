"""Serves the pages over HTTP. The threads of a request pool render them."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from exporter.exposition.gzipped import deflated, member
from exporter.pages import views
from exporter.pages.links import Links
from exporter.pages.rendering import TEMPLATES, etag, templates
from exporter.pages.runbooks import render_runbooks
from exporter.queries.errors import QueryError
from exporter.queries.reporter import Reporter
from exporter.web.application import HTML_HEADERS
from exporter.web.negotiation import wants_gzip
from exporter.web.request_pool import RequestPool, segments

REFRESH = 5
"""Seconds after which an open page checks whether it has changed."""

MIN_GZIP_SIZE = 1024
"""Size in bytes from which a page is compressed."""


class Assets(StaticFiles):
    """Style sheet, script and icons. `versions`: digest of each file's content, by its name."""

    def __init__(self) -> None:
        folder = TEMPLATES / "assets"
        super().__init__(directory=folder)
        self.versions = {
            file.name: hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() for file in folder.iterdir()
        }

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:  # noqa: ANN401  # as in the base class
        """Return an asset. If the link has the file's version, browsers may cache the response forever."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        # After an upgrade, an open page still has links with old versions. Their responses must not be cached.
        is_current = QueryParams(scope["query_string"]).get("v") == self.versions.get(Path(full_path).name, "")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_current else "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


class PageRequest(msgspec.Struct, frozen=True):
    """A request.

    Attributes:
        headers: Its headers.
        segments: The decoded segments of the path.
        query: Names and values of the parameters, without empty values.
        links: Links relative to the requested page.
    """

    headers: Headers
    segments: Sequence[str]
    query: Sequence[tuple[str, str]]
    links: Links


class PageContent(msgspec.Struct, frozen=True, kw_only=True):
    """Template and variables of a page. `refresh`: whether an open page checks for changes."""

    template: str
    variables: dict[str, Any]
    refresh: bool = True
    status: int = 200
    headers: dict[str, str] = {}


View = Callable[[PageRequest], PageContent | Response]


class Site:
    """All pages. `runbooks`: returns the runbooks as Markdown."""

    def __init__(
        self,
        reporter: Reporter,
        pool: RequestPool,
        runbooks: Callable[[], str],
        *,
        version: str,
        refresh: float = REFRESH,
    ) -> None:
        self._reporter = reporter
        self._pool = pool
        self._runbooks = runbooks
        self._refresh = refresh
        self._assets = Assets()
        self._version = version

    @property
    def routes(self) -> list[BaseRoute]:
        """Return the routes of all pages."""
        return [
            self._route("/", self._status),
            self._route("/runs", self._runs),
            self._route("/runs/{rest:path}", self._run_or_log),
            self._route("/runbooks", self._runbook),
            Mount("/assets", self._assets),
        ]

    def _route(self, path: str, view: View) -> Route:
        def handle(request: Request) -> Response:
            path = segments(request)
            query = [(name, text) for name, text in request.query_params.multi_items() if text]
            page_request = PageRequest(request.headers, path, query, Links(len(path) - 1, self._assets.versions))
            try:
                page = view(page_request)
            except QueryError as error:
                page = _error_page(error)
            return page if isinstance(page, Response) else self._render(page, page_request)

        return self._pool.route(path, handle, _plain_error)

    def _render(self, page: PageContent, request: PageRequest) -> Response:
        common = {
            "version": self._version,
            "links": request.links,
            "now": self._reporter.now,
            "refresh": self._refresh if page.refresh else 0,
        }
        body = templates().get_template(page.template).render(common | page.variables).encode()
        headers = HTML_HEADERS | {"Cache-Control": "no-store", "ETag": etag(body), "Vary": "Accept-Encoding"}
        # An open page is requested again every few seconds, and usually has not changed.
        if page.status == 200 and request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        if len(body) >= MIN_GZIP_SIZE and wants_gzip(request.headers.get("accept-encoding", "")):
            body, headers = member([body], [deflated(body)]), headers | {"Content-Encoding": "gzip"}
        return Response(body, page.status, headers | page.headers, "text/html")

    def _status(self, request: PageRequest) -> PageContent:
        return PageContent(template="status.html", variables=views.status(self._reporter, request.query))

    def _runs(self, request: PageRequest) -> PageContent | Response:
        found = views.runs(self._reporter, request.query)
        if isinstance(found, tuple):
            return RedirectResponse(request.links.run(*found), 302, HTML_HEADERS)
        return PageContent(template="runs.html", variables=found)

    def _run_or_log(self, request: PageRequest) -> PageContent:
        match request.segments:
            case ["runs", source, run_id]:
                return PageContent(template="run.html", variables=views.run(self._reporter, source, run_id))
            case ["runs", source, run_id, "log"]:
                variables = views.log(self._reporter, source, run_id, request.query)
                return PageContent(template="log.html", variables=variables, refresh=False)
        raise QueryError(404, "no such page")

    def _runbook(self, _: PageRequest) -> PageContent:
        return PageContent(template="runbooks.html", variables=render_runbooks(self._runbooks()), refresh=False)


def _error_page(error: QueryError) -> PageContent:
    variables = {"status": error.status, "sentence": str(error)}
    return PageContent(
        template="error.html", variables=variables, refresh=False, status=error.status, headers=error.headers
    )


def _plain_error(error: QueryError) -> Response:
    # Rendering a page needs a thread of the pool, and all may be busy.
    return PlainTextResponse(f"{error}\n", error.status, error.headers)
