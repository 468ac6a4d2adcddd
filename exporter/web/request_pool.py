"""Runs the handlers of slow requests in a few threads, so that scrapes and probes never wait for them.

A handler is a function from a request to a response; it may block. Above the limits, a request is refused at once.
"""

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import unquote

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter.queries.errors import QueryError

Handler = Callable[[Request], Response]


class Bounds(NamedTuple):
    """Limits of a pool.

    Attributes:
        workers: Number of threads.
        queue: Maximum number of requests that wait for a thread.
        rate: Maximum number of requests per second, on average.
        burst: Maximum number of requests in a short time, before `rate` applies.
        timeout: Maximum seconds per request.
    """

    workers: int = 4
    queue: int = 32
    rate: float = 50.0
    burst: float = 100.0
    timeout: float = 20.0


class RequestPool:
    """Threads that run handlers. Only one event loop may call the routes."""

    def __init__(self, bounds: Bounds | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds or Bounds()
        self._monotonic = monotonic
        self._threads = ThreadPoolExecutor(self._bounds.workers, thread_name_prefix="page")
        # Only one handler computes at a time. All threads of Python share one core, so several handlers would take most
        # of it from the thread that serves scrapes.
        self._computing = threading.Lock()
        self._running: set[Future[Response]] = set()
        self._tokens, self._filled = self._bounds.burst, monotonic()
        self._log = structlog.get_logger()

    def route(
        self, path: str, handler: Handler, on_error: Callable[[QueryError], Response], *, every_method: bool = False
    ) -> Route:
        """Return a route. `handler` may raise QueryError, and `on_error` returns the response to a request that failed.

        With `every_method`, the handler gets requests of all methods, not only GET.
        """

        async def respond(request: Request) -> Response:
            try:
                self._admit()
                return await self._run(handler, request)
            except QueryError as error:
                return on_error(error)
            except Exception as error:  # noqa: BLE001  # after a bug, the connection stays open and no data is shown
                self._log.exception("request failed", error=type(error).__name__, logger=__name__)
                return on_error(QueryError(500, "internal error; the log has the details"))

        route = Route(path, respond)
        if every_method:
            route.methods = None
        route.path_regex = re.compile(route.path_regex.pattern, re.DOTALL)  # an ID may contain a line break
        return route

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let other handlers compute while the calling one waits."""
        self._computing.release()
        try:
            yield
        finally:
            self._computing.acquire()

    def _admit(self) -> None:
        """Raise QueryError if the limits are reached; otherwise take a token."""
        now, bounds = self._monotonic(), self._bounds
        self._tokens = min(bounds.burst, self._tokens + (now - self._filled) * bounds.rate)
        self._filled = now
        if self._tokens < 1:
            raise QueryError(429, "too many requests")
        if len(self._running) >= bounds.workers + bounds.queue:
            raise QueryError(503, "too many requests at once")
        self._tokens -= 1

    async def _run(self, handler: Handler, request: Request) -> Response:
        future = self._threads.submit(self._handle, handler, request)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(self._bounds.timeout):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            raise QueryError(503, "no response in time") from None

    def _handle(self, handler: Handler, request: Request) -> Response:
        with self._computing:
            return handler(request)

    def close(self) -> bool:
        """Start no more handlers. Return whether all have ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        return not self._running


def segments(request: Request, root: str = "") -> list[str]:
    """Return the decoded segments of a request's path below `root`."""
    # The path is split before it is decoded, because an ID may contain an encoded slash.
    raw = request.scope.get("raw_path") or request.url.path.encode()
    return [unquote(part) for part in raw.decode("latin-1").removeprefix(root + "/").split("/")]
