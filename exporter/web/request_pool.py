"""Runs the handlers of slow responses in a few separate threads, so that no scrape and no probe waits for them.

A handler is a plain function from a request to a response. Requests beyond the limits get an error at once, which says
after how many seconds a retry may succeed.
"""

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import unquote

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter.queries.errors import BusyError, ReportError, TooManyError

Handler = Callable[[Request], Response]
OnError = Callable[[ReportError], Response]
"""Returns the response that reports an error."""


class Bounds(NamedTuple):
    """Limits of a pool.

    Attributes:
        workers: Number of threads.
        queue: Maximum number of requests that wait for a thread.
        rate: Maximum requests per second on average.
        burst: Maximum number of requests at once.
        timeout: Maximum seconds per request.
    """

    workers: int = 4
    queue: int = 32
    rate: float = 50.0
    burst: float = 100.0
    timeout: float = 20.0


class RequestPool:
    """Threads for handlers. Only one event loop may call its routes."""

    def __init__(self, bounds: Bounds | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds or Bounds()
        self._monotonic = monotonic
        self._threads = ThreadPoolExecutor(self._bounds.workers, thread_name_prefix="page")
        # Handlers compute one at a time. All threads of Python share one core, and each handler would get as much of it
        # as the thread that serves scrapes.
        self._computing = threading.Lock()
        self._busy = 0
        self._closed = False
        self._tokens, self._filled = self._bounds.burst, monotonic()
        self._log = structlog.get_logger()

    def route(self, path: str, handler: Handler, on_error: OnError, *, every_method: bool = False) -> Route:
        """Return a route. A ReportError that the handler raises becomes the response of `on_error`.

        `every_method`: the handler accepts all methods, not only GET.
        """

        async def respond(request: Request) -> Response:
            try:
                self._admit()
                return await self._run(handler, request)
            except ReportError as error:
                return on_error(error)
            except Exception as error:  # noqa: BLE001  # a bug must neither break the connection nor show internal data
                self._log.exception("request failed", error=type(error).__name__, logger=__name__)
                return on_error(ReportError("internal error; the log has the details"))

        route = Route(path, respond)
        if every_method:
            route.methods = None
        route.path_regex = re.compile(route.path_regex.pattern, re.DOTALL)  # an ID can hold even a newline
        return route

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let other handlers compute while this one waits."""
        self._computing.release()
        try:
            yield
        finally:
            self._computing.acquire()

    def _admit(self) -> None:
        """Admit one request. Raises ReportError if the limits are reached."""
        now, bounds = self._monotonic(), self._bounds
        self._tokens = min(bounds.burst, self._tokens + (now - self._filled) * bounds.rate)
        self._filled = now
        if self._tokens < 1:
            raise TooManyError("too many requests")
        if self._closed or self._busy >= bounds.workers + bounds.queue:
            raise BusyError("too many requests at once")
        self._tokens -= 1

    async def _run(self, handler: Handler, request: Request) -> Response:
        future = self._threads.submit(self._handle, handler, request)
        self._busy += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_in(loop, self._done))
        try:
            async with asyncio.timeout(self._bounds.timeout):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            raise BusyError("no response in time") from None

    def _handle(self, handler: Handler, request: Request) -> Response:
        with self._computing:
            return handler(request)

    def _done(self) -> None:
        self._busy -= 1

    def close(self) -> bool:
        """Start no more handlers. Return False if a handler is still running."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        return self._busy == 0


def segments(request: Request, path: str = "") -> list[str]:
    """Return the decoded parts of a request's path below `path`."""
    # The path is split before it is decoded, because an ID may contain a slash.
    raw = request.scope.get("raw_path") or request.url.path.encode()
    return [unquote(part) for part in raw.decode("latin-1").removeprefix(path + "/").split("/")]


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(call)
