"""Connections with a deadline per exchange of request and response, not only per read.

A socket's timeout starts again with every byte. Here no wait lasts beyond the deadline of the exchange:
`request.extensions["deadline"]`, a time of the monotonic clock.
"""

import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpcore
import httpx
import msgspec
import structlog

SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
_log = structlog.get_logger()
KEEPALIVE_SECONDS = 120.0
"""Seconds for which an idle connection stays open: longer than the default poll interval."""


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Connection settings: seconds per wait, maximum bytes of a body, TLS files and a proxy ("" for none)."""

    timeout: float = 30.0
    body_limit: int = 64 * 1024 * 1024
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    proxy_url: str = ""


class DeadlineStream(httpcore.NetworkStream):
    """A connection whose waits end at the thread's deadline."""

    def __init__(self, inner: httpcore.NetworkStream, limit: Callable[[float | None], float | None]) -> None:
        self._inner = inner
        self._limit = limit

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at most `max_bytes` bytes."""
        return self._inner.read(max_bytes, self._limit(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all bytes."""
        self._inner.write(buffer, self._limit(timeout))

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """Return the same connection, encrypted."""
        return DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, self._limit(timeout)), self._limit)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401  # the type of the interface
        """Return information about the inner connection."""
        return self._inner.get_extra_info(info)


class DeadlineBackend(httpcore.NetworkBackend):
    """Opens connections that respect the thread's deadline."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._thread = threading.local()
        self._monotonic = monotonic
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to a host."""
        stream = self._inner.connect_tcp(host, port, self._limit(timeout), local_address, socket_options)
        return DeadlineStream(stream, self._limit)

    def set_deadline(self, deadline: float | None) -> None:
        """Set the deadline of this thread's exchange; None for no deadline."""
        self._thread.deadline = deadline

    def _limit(self, timeout: float | None) -> float | None:
        """Return the shorter of a timeout and the time until the deadline."""
        deadline: float | None = getattr(self._thread, "deadline", None)
        if deadline is None:
            return timeout
        left = deadline - self._monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the exchange took too long")
        return left if timeout is None else min(timeout, left)


class ResponseStream(httpx.SyncByteStream):
    """The bytes of a response as they arrive."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        """Return the connection to the pool."""
        self._response.close()


# Per TLS file: time of its last change in ns, size and inode; None if it is missing.
Versions = tuple[tuple[int, int, int] | None, ...]


class NetworkTransport(httpx.BaseTransport):
    """Sends requests over a pool of connections. Raises exceptions of httpcore.

    When a TLS file changes on disk, the next request uses the new file, on a new connection. Requests in flight
    continue on their old connections.
    """

    def __init__(self, settings: NetworkSettings, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._backend = DeadlineBackend(monotonic)
        self._versions = versions_of(settings)
        # Files that cannot be used are logged once.
        self._refused: Versions | None = None
        self._lock = threading.Lock()
        self._pool = make_pool(settings, self._backend)
        self._replaced: list[httpcore.ConnectionPool] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. The caller must read the body in the same thread."""
        self._backend.set_deadline(request.extensions.get("deadline"))
        response = self._current_pool().handle_request(
            httpcore.Request(
                request.method,
                _url(request.url),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=ResponseStream(response))

    def _current_pool(self) -> httpcore.ConnectionPool:
        """Return the pool; a new one if TLS files have changed and can be used."""
        with self._lock:
            self._close_replaced()
            versions = versions_of(self._settings)
            if versions in {self._versions, self._refused}:
                return self._pool
            try:
                pool = make_pool(self._settings, self._backend)
            except (OSError, ValueError) as error:
                # A file may be half written, or only one of certificate and key may have been replaced so far.
                self._refused = versions
                _log.warning("tls files changed but cannot be used; old files stay in use", error=error)
                return self._pool
            self._replaced.append(self._pool)
            self._pool = pool
            self._versions, self._refused = versions, None
            _log.info("tls files changed and loaded")
        return pool

    def _close_replaced(self) -> None:
        """Close the replaced pools whose requests have all ended."""
        idle = [pool for pool in self._replaced if all(each.is_idle() or each.is_closed() for each in pool.connections)]
        self._replaced = [pool for pool in self._replaced if pool not in idle]
        for pool in idle:
            pool.close()

    def close(self) -> None:
        """Close all connections."""
        for pool in [self._pool, *self._replaced]:
            pool.close()


def versions_of(settings: NetworkSettings) -> Versions:
    """Return the versions of a source's TLS files, which show whether a file has changed."""
    return tuple(_version(path) for path in (settings.ca_file, settings.cert_file, settings.key_file) if path)


def _version(path: str) -> tuple[int, int, int] | None:
    try:
        file = Path(path).stat()
    except OSError:
        return None
    return file.st_mtime_ns, file.st_size, file.st_ino


def make_pool(settings: NetworkSettings, backend: httpcore.NetworkBackend) -> httpcore.ConnectionPool:
    """Return a pool that uses the configured proxy. Environment variables and .netrc are ignored."""
    context = make_ssl_context(settings)
    options: dict[str, Any] = {"max_connections": None, "keepalive_expiry": KEEPALIVE_SECONDS}
    options |= {"ssl_context": context, "network_backend": backend}
    if not settings.proxy_url:
        return httpcore.ConnectionPool(**options)
    proxy = httpx.Proxy(settings.proxy_url)
    tls = make_proxy_context(settings) if proxy.url.scheme == "https" else None
    return httpcore.HTTPProxy(_url(proxy.url), proxy_auth=proxy.raw_auth, proxy_ssl_context=tls, **options)


@cache
def bundled_ssl_context() -> ssl.SSLContext:
    """Return the context with the bundled CAs. All sources share it, because a context takes 0.8 MB."""
    return httpx.create_ssl_context(trust_env=False)


def make_ssl_context(settings: NetworkSettings) -> ssl.SSLContext:
    """Return a context with the CA file, or with the bundled CAs, and with the client certificate if there is one."""
    if not settings.ca_file and not settings.cert_file:
        return bundled_ssl_context()
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else True
    context = httpx.create_ssl_context(verify=verify, trust_env=False)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file or None)
    return context


def make_proxy_context(settings: NetworkSettings) -> ssl.SSLContext:
    """Return a context for a TLS proxy, with the bundled CAs and the CA file."""
    if not settings.ca_file:
        return bundled_ssl_context()
    context = httpx.create_ssl_context(trust_env=False)
    context.load_verify_locations(settings.ca_file)
    return context


def _url(url: httpx.URL) -> httpcore.URL:
    return httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
