"""The ASGI application: `/metrics`, probes, reloads, and the routes of all other pages."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter.exposition.exposition import Body, MetricsPage
from exporter.web.negotiation import OPENMETRICS, TEXT, wants_gzip, wants_openmetrics
from exporter.web.origins import is_from_another_site, is_own_host

PIECE = 256 * 1024
"""Bytes that the server gets at a time. A client that does not read uses at most this much memory."""

READ_TIMEOUT = 60.0
"""Seconds that a client may take to read `/metrics`. Until then the page stays in memory."""

RELOAD_INTERVAL = 1.0
"""Minimum seconds between the starts of two reloads."""

ABORT = "jobrun_exporter.abort"
"""Extension of an ASGI scope: a function that closes the connection at once."""

HTML_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every HTML page."""

CheckResult = tuple[bool, str]
"""Whether a check or a reload succeeded, and a sentence about it."""


class WebHandlers(msgspec.Struct, frozen=True, kw_only=True):
    """The functions that the web server calls.

    Attributes:
        page: Returns the current content of `/metrics`; None before there is any.
        stale: Returns why `page` must not be served; "" if it may. Must not block.
        process_page: Returns the content of `/metrics/replica`; None if this process is not a replica.
        scraped: Called with the generation of each `page` that a client has received completely.
        healthy: Returns whether heartbeat and scheduler are alive. Must not block.
        ready: Returns whether every source was polled once. Must not block.
        reload: Loads the config again. If the config is refused, the sentence has its problems. May block.
        routes: Routes of all other pages.
        external_url: Returns `web.external_url`. If it is set, other pages are only served under its host.
    """

    page: Callable[[], MetricsPage | None]
    scraped: Callable[[int], None]
    healthy: Callable[[], CheckResult]
    ready: Callable[[], CheckResult]
    reload: Callable[[], CheckResult]
    stale: Callable[[], str] = str
    process_page: Callable[[], MetricsPage | None] = lambda: None
    routes: Sequence[BaseRoute] = ()
    external_url: Callable[[], str] = str


def application(
    handlers: WebHandlers, read_timeout: float = READ_TIMEOUT, monotonic: Callable[[], float] = time.monotonic
) -> ASGIApp:
    """Return the ASGI application."""
    metrics = _Metrics(handlers.page, handlers.stale, handlers.scraped, read_timeout)
    process = _Metrics(handlers.process_page, str, lambda _: None, read_timeout)
    pages = _pages(handlers, monotonic)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        # Scrapes bypass Starlette's routing, because it takes more time than the rest of the response.
        if scope["type"] == "http" and path == "/metrics":
            await metrics(scope, receive, send)
        elif scope["type"] == "http" and path == "/metrics/replica" and handlers.process_page() is not None:
            await process(scope, receive, send)
        elif path.startswith("/-/") or is_own_host(_header(scope, b"host"), handlers.external_url()):
            await pages(scope, receive, send)
        else:
            text = f"These pages are served at {handlers.external_url()} (web.external_url), not at this host.\n"
            await PlainTextResponse(text, 421)(scope, receive, send)

    return serve


class _Reloads:
    """`POST /-/reload`: one at a time, and at most one per second."""

    def __init__(self, handlers: WebHandlers, monotonic: Callable[[], float]) -> None:
        self._handlers = handlers
        self._monotonic = monotonic
        self._next = -math.inf
        self._reloading = False

    async def __call__(self, request: Request) -> Response:
        if is_from_another_site(request.headers, self._handlers.external_url()):
            return PlainTextResponse("Forbidden: pages of other sites may not reload the config\n", 403)
        if self._reloading or self._monotonic() < self._next:
            text = f"Too many reloads: at most one every {RELOAD_INTERVAL:.0f} s, and one at a time\n"
            return PlainTextResponse(text, 429, {"Retry-After": f"{RELOAD_INTERVAL:.0f}"})
        self._reloading, self._next = True, self._monotonic() + RELOAD_INTERVAL
        try:
            applied, text = await run_in_threadpool(self._handlers.reload)
        finally:
            self._reloading = False
        return PlainTextResponse(f"{text}\n", 200 if applied else 500)


class _Metrics(NamedTuple):
    """Serves `/metrics` or `/metrics/replica`. For the fields, see `WebHandlers`."""

    page: Callable[[], MetricsPage | None]
    stale: Callable[[], str]
    scraped: Callable[[int], None]
    read_timeout: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = self.page()
        if scope["method"] not in ("GET", "HEAD"):
            await PlainTextResponse("Method Not Allowed\n", 405, {"Allow": "GET, HEAD"})(scope, receive, send)
        elif page is None:
            await PlainTextResponse("No metrics yet: loading the state.\n", 503)(scope, receive, send)
        elif reason := self.stale():
            # The connection is closed, so that a load balancer can send the next scrape to another replica.
            headers = {"Connection": "close"}
            await PlainTextResponse(f"No metrics now: {reason}\n", 503, headers)(scope, receive, send)
        else:
            try:
                async with asyncio.timeout(self.read_timeout):
                    await self._serve(page, scope, receive, send)
            except TimeoutError:
                # If the response ended normally, the client would take a part of the page for the whole page.
                scope["extensions"][ABORT]()
                await asyncio.sleep(0)  # the event loop closes the connection in its next iteration

    async def _serve(self, page: MetricsPage, scope: Scope, receive: Receive, send: Send) -> None:
        body, headers = _choose(page, scope)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        for number, piece in enumerate(_pieces(body)):
            if number:
                await asyncio.sleep(0)  # lets other requests run, and notices that the client has left
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not await _disconnected(receive):
            self.scraped(page.generation)
        await send({"type": "http.response.body"})


def _choose(page: MetricsPage, scope: Scope) -> tuple[Body, list[tuple[bytes, bytes]]]:
    openmetrics = wants_openmetrics(_header(scope, b"accept"))
    gzip = wants_gzip(_header(scope, b"accept-encoding"))
    if openmetrics:
        body = page.openmetrics_gzip if gzip else page.openmetrics
    else:
        body = page.text_gzip if gzip else page.text
    headers = [
        (b"content-type", (OPENMETRICS if openmetrics else TEXT).encode()),
        (b"content-length", str(body.length).encode()),
        (b"vary", b"Accept, Accept-Encoding"),
    ]
    return body, [*headers, (b"content-encoding", b"gzip")] if gzip else headers


def _header(scope: Scope, name: bytes) -> str:
    return ",".join(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def _pieces(body: Body) -> Iterator[bytes | memoryview]:
    for part in body.parts if body.length > PIECE else (bytes(body),):
        view = memoryview(part)
        for start in range(0, len(part), PIECE):
            yield view[start : start + PIECE]


async def _disconnected(receive: Receive) -> bool:
    await receive()  # the request's body, which is ignored
    # The next message comes only when the client disconnects.
    message = asyncio.ensure_future(receive())
    await asyncio.sleep(0)
    gone = message.done() and message.result()["type"] == "http.disconnect"
    message.cancel()
    return gone


def _pages(handlers: WebHandlers, monotonic: Callable[[], float]) -> ASGIApp:
    def probe(check: Callable[[], CheckResult]) -> Callable[[Request], Awaitable[Response]]:
        # Probes run on the event loop, because slow pages may use all threads of the pool.
        async def respond(_: Request) -> Response:
            passed, sentence = check()
            return PlainTextResponse(f"{sentence}\n", 200 if passed else 503)

        return respond

    async def robots(_: Request) -> Response:
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    own = [
        Route("/-/healthy", probe(handlers.healthy)),
        Route("/-/ready", probe(handlers.ready)),
        Route("/-/reload", _Reloads(handlers, monotonic).__call__, methods=["POST"]),
        Route("/robots.txt", robots),
    ]
    application = Starlette(routes=[*own, *handlers.routes])
    application.router.redirect_slashes = False  # a redirect would go to any host that a request names
    return application
