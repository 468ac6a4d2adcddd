"""Answers that take a while: in threads of their own, a few at a time, so that no scrape and no probe waits for them.

A handler is a plain function from a request to a response. What is too much is refused at once, with the time after
which another try may do better; what takes too long is given up.

Handlers compute one at a time, and wait together: Python computes on one core however many threads want to, and each of
them would take as much of it as the thread that answers scrapes.
"""

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import unquote

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exporter.reports.errors import BusyError, ReportError, TooManyError

Handler = Callable[[Request], Response]
Endpoint = Callable[[Request], Awaitable[Response]]
Refuse = Callable[[ReportError], Response]
"""Makes the response that says why there is no other."""


class Bounds(NamedTuple):
    """How much is done at once. `rate`: requests a second in the long run; `burst`: at once; `patience`: seconds."""

    workers: int = 4
    waiting: int = 32
    rate: float = 50.0
    burst: float = 100.0
    patience: float = 20.0


class RequestPool:
    """Threads for handlers. Its endpoints are to be called by one event loop only.

    Args:
        bounds: How much is done at once.
        monotonic: A clock that never jumps, in seconds.
    """

    def __init__(self, bounds: Bounds | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds or Bounds()
        self._monotonic = monotonic
        self._threads = ThreadPoolExecutor(self._bounds.workers, thread_name_prefix="page")
        self._computing = threading.Lock()
        self._busy = 0
        self._closed = False
        self._tokens, self._filled = self._bounds.burst, monotonic()
        self._log = structlog.get_logger()

    def endpoint(self, handler: Handler, refuse: Refuse) -> Endpoint:
        """The handler as what Starlette calls. A ReportError that it raises is answered by `refuse`."""

        async def answer(request: Request) -> Response:
            try:
                self._admit()
                return await self._run(handler, request)
            except ReportError as error:
                return refuse(error)
            except Exception as error:  # noqa: BLE001  # the last resort, as follows
                # A fault of ours must not end the connection without a word, nor show what it saw.
                self._log.exception("page could not be made", error=type(error).__name__, logger=__name__)
                return refuse(ReportError("a fault of the exporter itself; its log says more"))

        return answer

    def below(self, path: str, handler: Handler, refuse: Refuse) -> Route:
        """A route for all that begins with a path, whatever comes behind it: ids can hold even a newline.

        It answers all methods, so that the handler can refuse in its own words; see `segments`.
        """
        route = Route(path + "/{rest:path}", self.endpoint(handler, refuse))
        route.methods = None
        route.path_regex = re.compile(route.path_regex.pattern, re.DOTALL)
        return route

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For a handler that waits for something: lets others compute meanwhile."""
        self._computing.release()
        try:
            yield
        finally:
            self._computing.acquire()

    def _admit(self) -> None:
        """Takes one of the requests that may come now."""
        now, bounds = self._monotonic(), self._bounds
        self._tokens = min(bounds.burst, self._tokens + (now - self._filled) * bounds.rate)
        self._filled = now
        if self._tokens < 1:
            raise TooManyError("too many requests")
        if self._closed or self._busy >= bounds.workers + bounds.waiting:
            raise BusyError("too many requests are being answered")
        self._tokens -= 1

    async def _run(self, handler: Handler, request: Request) -> Response:
        future = self._threads.submit(self._handle, handler, request)
        self._busy += 1
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _told(loop, self._done))
        try:
            async with asyncio.timeout(self._bounds.patience):
                return await asyncio.shield(asyncio.wrap_future(future))
        except TimeoutError:
            raise BusyError("no answer in time") from None

    def _handle(self, handler: Handler, request: Request) -> Response:
        with self._computing:
            return handler(request)

    def _done(self) -> None:
        self._busy -= 1

    def close(self) -> bool:
        """Begins nothing more; False if a handler is still at work."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        return self._busy == 0


def segments(request: Request, path: str) -> list[str]:
    """The parts of a request's path behind another; a slash within an id is quoted, so it parts nothing."""
    raw = request.scope.get("raw_path") or request.url.path.encode()
    return [unquote(part) for part in raw.decode("latin-1").removeprefix(path + "/").split("/")]


def _told(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    """Calls in the loop's thread, unless the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call)
