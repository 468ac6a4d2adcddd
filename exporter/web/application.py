"""The HTTP side: ready bytes for `/metrics`, and small answers for people and probes."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from exporter.exposition.exposition import Body, Page
from exporter.web.negotiation import OPENMETRICS, TEXT, wants_gzip, wants_openmetrics
from exporter.web.origins import is_from_another_site, names_us

PIECE = 256 * 1024
"""How many bytes are handed over at a time, so that a client that does not read costs no more than that."""

PATIENCE = 60.0
"""How many seconds a client may take to read one answer of `/metrics`; the page that it reads is kept that long."""

RELOAD_INTERVAL = 1.0
"""Seconds between the beginnings of two reloads that clients ask for."""

ABORT = "jobrun_exporter.abort"
"""Extension of a request's scope: a function that ends its connection at once."""

HTML_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Sent with every HTML page."""

Decision = tuple[bool, str]
"""Whether all is well, and a sentence about it."""


class WebHandlers(msgspec.Struct, frozen=True, kw_only=True):
    """What the web side asks of the rest.

    Attributes:
        page: The current page; None before the first.
        scraped: Told the generation of each page that a client got whole.
        healthy: Whether the scheduler is alive. Must not wait for anything.
        ready: Whether the state is loaded and every source was polled once. Must not wait for anything.
        reload: Takes the configuration anew; False with its faults if it was refused. It may take a while.
        routes: Further pages, those of Starlette.
        external_url: Where people reach the pages, "" if nobody said. Pages are served under its host only.
    """

    page: Callable[[], Page | None]
    scraped: Callable[[int], None]
    healthy: Callable[[], Decision]
    ready: Callable[[], Decision]
    reload: Callable[[], Decision]
    routes: Sequence[BaseRoute] = ()
    external_url: Callable[[], str] = str


class Serves(Protocol):
    """An ASGI application."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answers one request."""


def application(
    answers: WebHandlers, patience: float = PATIENCE, monotonic: Callable[[], float] = time.monotonic
) -> Serves:
    """The ASGI application: `/metrics` goes straight to the ready bytes, all else through Starlette."""
    metrics = _Metrics(answers, patience)
    pages = _pages(answers, monotonic)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path == "/metrics":
            await metrics(scope, receive, send)
        elif path.startswith("/-/") or names_us(_header(scope, b"host"), answers.external_url()):
            await pages(scope, receive, send)
        else:
            text = (
                f"These pages are at {answers.external_url()} (web.external_url), not at the host that was asked for.\n"
            )
            await PlainTextResponse(text, 421)(scope, receive, send)

    return serve


class _Reloads:
    """`POST /-/reload`: one at a time, and one a second at most."""

    def __init__(self, answers: WebHandlers, monotonic: Callable[[], float]) -> None:
        self._answers = answers
        self._monotonic = monotonic
        self._next = -math.inf
        self._reloading = False

    async def __call__(self, request: Request) -> Response:
        if is_from_another_site(request.headers, self._answers.external_url()):
            return PlainTextResponse("Forbidden: pages of other sites may not reload the configuration\n", 403)
        if self._reloading or self._monotonic() < self._next:
            text = f"Too many reloads: one every {RELOAD_INTERVAL:.0f} s is taken, and one at a time\n"
            return PlainTextResponse(text, 429, {"Retry-After": f"{RELOAD_INTERVAL:.0f}"})
        self._reloading, self._next = True, self._monotonic() + RELOAD_INTERVAL
        try:
            taken, text = await run_in_threadpool(self._answers.reload)
        finally:
            self._reloading = False
        return PlainTextResponse(f"{text}\n", 200 if taken else 500)


class _Metrics:
    """`/metrics`."""

    def __init__(self, answers: WebHandlers, patience: float) -> None:
        self._answers = answers
        self._patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = self._answers.page()
        if scope["method"] not in ("GET", "HEAD"):
            refusal = PlainTextResponse("Method Not Allowed\n", 405, {"Allow": "GET, HEAD"})
            await refusal(scope, receive, send)
        elif page is None:
            await PlainTextResponse("No metrics yet: the state is being loaded.\n", 503)(scope, receive, send)
        else:
            try:
                async with asyncio.timeout(self._patience):
                    await self._serve(page, scope, receive, send)
            except TimeoutError:  # a client that is too slow is left with half an answer
                await _cut_off(scope)

    async def _serve(self, page: Page, scope: Scope, receive: Receive, send: Send) -> None:
        body, headers = _chosen(page, scope)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body"})
            return
        for number, piece in enumerate(_pieces(body)):
            if number:
                await asyncio.sleep(0)  # others are served between, and a client that left is noticed
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if not await _disconnected(receive):
            self._answers.scraped(page.generation)
        await send({"type": "http.response.body"})


async def _cut_off(scope: Scope) -> None:
    """Ends a connection, whatever is still to be sent on it, if the server has the means."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()
        await asyncio.sleep(0)  # the server is told in the loop's next turn


def _chosen(page: Page, scope: Scope) -> tuple[Body, list[tuple[bytes, bytes]]]:
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
    """The body in pieces of at most PIECE bytes."""
    for part in body.parts if body.length > PIECE else (bytes(body),):
        view = memoryview(part)
        for start in range(0, len(part), PIECE):
            yield view[start : start + PIECE]


async def _disconnected(receive: Receive) -> bool:
    """Whether the client is gone already. `receive` says so at once; of a client that waits, it says nothing."""
    await receive()  # the request itself, which has no body worth reading
    message = asyncio.ensure_future(_received(receive))
    await asyncio.sleep(0)
    gone = message.done() and message.result() == "http.disconnect"
    message.cancel()
    return gone


async def _received(receive: Receive) -> str:
    return str((await receive())["type"])


def _pages(answers: WebHandlers, monotonic: Callable[[], float]) -> ASGIApp:
    def probe(ask: Callable[[], Decision]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(_: Request) -> Response:  # no thread of the pool, which slow pages may have taken up
            well, text = ask()
            return PlainTextResponse(f"{text}\n", 200 if well else 503)

        return answer

    async def robots(_: Request) -> Response:
        return PlainTextResponse("User-agent: *\nDisallow: /\n")

    own = [
        Route("/-/healthy", probe(answers.healthy)),
        Route("/-/ready", probe(answers.ready)),
        Route("/-/reload", _Reloads(answers, monotonic).__call__, methods=["POST"]),
        Route("/robots.txt", robots),
    ]
    application = Starlette(routes=[*own, *answers.routes])
    application.router.redirect_slashes = False  # it would lead to whatever host a request names
    return application
