"""Serves the pages over HTTP. The threads of a request pool render them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from exporter.exposition.gzipped import deflated, member
from exporter.links import run_path
from exporter.pages import views
from exporter.pages.rendering import TEMPLATES, Links, templates
from exporter.pages.runbooks import render_runbooks
from exporter.pages.views import Query, Variables
from exporter.queries.errors import QueryError
from exporter.queries.reporter import Reporter
from exporter.web.application import HTML_HEADERS
from exporter.web.negotiation import wants_gzip
from exporter.web.request_pool import RequestPool, segments

REFRESH = 5
"""Seconds after which an open page checks whether it has changed."""

MIN_GZIP_SIZE = 1024
"""Size in bytes from which a page is compressed."""

View = Callable[[Sequence[str], Query], tuple[str, Variables] | Response]
"""Returns template and variables of a page by the segments of its path and by its query. Raises QueryError."""


class Assets(StaticFiles):
    """Style sheet, script and icons."""

    def file_response(self, *args: Any, **more: Any) -> Response:  # noqa: ANN401  # those of the base class
        """Return an asset. Browsers check for changes before they use it again."""
        response = super().file_response(*args, **more)
        response.headers.update({"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
        return response


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
        self._version = version
        self._refresh = refresh

    @property
    def routes(self) -> list[BaseRoute]:
        """Return the routes of all pages."""
        return [
            self._route("/", lambda _, query: ("status.html", views.status(self._reporter, query))),
            self._route("/runs", self._runs),
            self._route("/runs/{rest:path}", self._run_or_log),
            self._route("/runbooks", lambda *_: ("runbooks.html", render_runbooks(self._runbooks()))),
            Mount("/assets", Assets(directory=TEMPLATES / "assets")),
        ]

    def _route(self, path: str, view: View) -> Route:
        def handle(request: Request) -> Response:
            query = [(name, text) for name, text in request.query_params.multi_items() if text]
            try:
                page = view(segments(request), query)
            except QueryError as error:
                variables = {"status": error.status, "sentence": str(error)}
                return self._render(request, "error.html", variables, error.status, error.headers)
            return page if isinstance(page, Response) else self._render(request, *page)

        return self._pool.route(path, handle, _plain_error)

    def _render(
        self,
        request: Request,
        template: str,
        variables: Variables,
        status: int = 200,
        more_headers: Mapping[str, str] | None = None,
    ) -> Response:
        common = {
            "version": self._version,
            "links": Links(len(segments(request)) - 1),
            "now": self._reporter.now,
            "refresh": self._refresh,
        }
        body = templates().get_template(template).render(common | variables).encode()
        headers = {**HTML_HEADERS, "Cache-Control": "no-store", "Vary": "Accept-Encoding", **(more_headers or {})}
        if len(body) >= MIN_GZIP_SIZE and wants_gzip(request.headers.get("accept-encoding", "")):
            body, headers = member([body], [deflated(body)]), headers | {"Content-Encoding": "gzip"}
        return Response(body, status, headers, "text/html")

    def _runs(self, _: Sequence[str], query: Query) -> tuple[str, Variables] | Response:
        found = views.runs(self._reporter, query)
        if isinstance(found, tuple):
            return RedirectResponse("." + run_path(*found), 302, HTML_HEADERS)
        return "runs.html", found

    def _run_or_log(self, path: Sequence[str], query: Query) -> tuple[str, Variables]:
        match path:
            case ["runs", source, run_id]:
                return "run.html", views.run(self._reporter, source, run_id)
            case ["runs", source, run_id, "log"]:
                return "log.html", {"log": self._reporter.log(source, run_id, dict(query).get("step", ""))}
        raise QueryError(404, "no such page")


def _plain_error(error: QueryError) -> Response:
    # Rendering a page needs a thread of the pool, and all may be busy.
    return PlainTextResponse(f"{error}\n", error.status, error.headers)
