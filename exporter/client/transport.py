"""Sends all requests, including sign-ins and retries, within budget, timeouts and size limits. Records metrics."""

import re
import zlib
from collections.abc import Callable, Iterable, Iterator

import httpcore
import httpx
import structlog

from exporter.client.budget import Budget
from exporter.client.clock import ServerClock
from exporter.client.limits import parse_limits
from exporter.errors import DecodeError, NetworkError, ProxyRefusedError, SourceError, TimedOutError

TIMEOUTS = (httpx.TimeoutException, httpcore.TimeoutException)
TRANSPORT_ERRORS = (
    httpx.TransportError,
    httpx.StreamError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
# These errors have texts of the operating system and of TLS, which may be logged. Texts of other errors may quote the
# request.
CONNECT_ERRORS = (httpx.ConnectError, httpcore.ConnectError)
PROXY_ERRORS = (httpx.ProxyError, httpcore.ProxyError)
PROXY_STATUS = re.compile(r"(\d{3})\b")
PROXY_AUTH_REQUIRED = 407
CLOSED_ERRORS = (httpx.RemoteProtocolError, httpx.ReadError, httpcore.RemoteProtocolError, httpcore.ReadError)
"""Errors of a closed connection. A server that speaks TLS closes the connection of a plain request."""
PLAIN_HTTP = "the server speaks plain HTTP on this port: write http:// in base_url (or in proxy_url), or another port"
HINTS = (
    ("WRONG_VERSION_NUMBER", PLAIN_HTTP),
    ("RECORD_LAYER_FAILURE", PLAIN_HTTP),
    ("HTTP_REQUEST", PLAIN_HTTP),
    ("Hostname mismatch", "the certificate is for another name than the host of base_url"),
    ("IP address mismatch", "the certificate is for another address than the host of base_url"),
    ("certificate has expired", "the server needs a new certificate"),
    ("CERTIFICATE_VERIFY_FAILED", "if your own authority signed it, set tls.ca_file to its certificate"),
    ("CERTIFICATE_REQUIRED", "the server wants a client certificate: set tls.cert_file and tls.key_file"),
    ("Name or service not known", "check the host of base_url, or the DNS"),
    ("Connection refused", "check the host and the port of base_url"),
)
"""Parts of the texts of connection errors, each with a cure."""
DROPPED_HEADERS = frozenset({b"content-encoding", b"content-length", b"transfer-encoding", b"set-cookie"})
GZIP = 31
"""zlib's `wbits` for the gzip format."""


class RequestRecorder:
    """Records metrics of requests. This base class records nothing."""

    def count_request(self, endpoint: str, code: str, seconds: float) -> None:
        """Count a request to an endpoint template by its status code, or as `timeout` or `network`."""

    def count_retry(self) -> None:
        """Count a retry."""

    def add_wait(self, seconds: float) -> None:
        """Add seconds that a request waited for the budget."""

    def set_limits(self, limit: float | None, remaining: float | None, reset: float | None) -> None:
        """Set the rate limit that the server reports. `reset`: Unix seconds."""

    def set_credential_expiry(self, timestamp: float | None) -> None:
        """Set the time at which the current credential expires; None if unknown."""


# Seconds after which metrics no longer show a rate limit, unless the server reports it again.
LIMITS_MAX_AGE = 900.0


class BudgetedTransport(httpx.BaseTransport):
    """Transport that waits for the budget, reads the whole body within limits, and calls the recorder.

    It uses these `extensions` of a request: `endpoint` (template of its path) and `patience` (seconds to wait for the
    budget). Raises errors of `exporter.errors`, and `Stopped`.
    """

    def __init__(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
        self,
        inner: httpx.BaseTransport,
        budget: Budget,
        recorder: RequestRecorder,
        *,
        timeout: float,
        body_limit: int,
        clock: ServerClock,
        monotonic: Callable[[], float],
        source: str = "",
    ) -> None:
        self._inner = inner
        self._source = source
        self._log = structlog.get_logger()
        self._logged_ignored = False
        self._budget = budget
        self._recorder = recorder
        self._timeout = timeout
        self._timeouts = httpx.Timeout(timeout).as_dict()
        self._body_limit = body_limit
        self._clock = clock
        self._monotonic = monotonic
        self._limits_until: float | None = monotonic() + LIMITS_MAX_AGE

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Return its complete, decompressed response."""
        patience = request.extensions.get("patience", 2 * self._timeout)
        self._budget.acquire(self._monotonic() + patience, self._recorder.add_wait)
        started = self._monotonic()
        request.extensions["deadline"] = started + 2 * self._timeout
        # Without this, the request of a sign-in would wait forever.
        request.extensions["timeout"] = self._timeouts
        code = "network"
        try:
            response = self._exchange(request)
            code = str(response.status_code)
        except TimedOutError:
            code = "timeout"
            raise
        finally:
            self._recorder.count_request(endpoint_of(request), code, self._monotonic() - started)
            self._expire_limits()
        if response.status_code == PROXY_AUTH_REQUIRED:
            raise proxy_error(response.status_code, request)
        if response.status_code < 400:
            self._budget.succeeded(started)
        self._apply_limits(response)
        return response

    def close(self) -> None:
        """Close all connections."""
        self._inner.close()

    def _exchange(self, request: httpx.Request) -> httpx.Response:
        try:
            response = self._inner.handle_request(request)
            try:
                body = self._body(response, request)
            finally:
                response.close()
        except TIMEOUTS + TRANSPORT_ERRORS as error:
            raise wrap_error(error, request) from None
        # Headers are copied as bytes, because some are not valid text.
        headers = [pair for pair in response.headers.raw if pair[0].lower() not in DROPPED_HEADERS]
        return httpx.Response(response.status_code, headers=headers, content=body)

    def _body(self, response: httpx.Response, request: httpx.Request) -> bytes:
        # The body is read in pieces, so that it never exceeds the limit by more than one piece.
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        stream: Iterable[bytes] = response.stream if isinstance(response.stream, httpx.SyncByteStream) else ()
        if encoding in ("gzip", "x-gzip"):
            stream = inflate(stream, self._body_limit, describe(request))
        pieces, size = list[bytes](), 0
        for piece in stream:
            size += len(piece)
            if size > self._body_limit:
                raise DecodeError(f"{describe(request)}: the response is larger than {self._body_limit} bytes")
            if self._monotonic() > request.extensions["deadline"]:
                raise TimedOutError(f"{describe(request)}: no complete response within {2 * self._timeout:g} s")
            pieces.append(piece)
        return b"".join(pieces)

    def _expire_limits(self) -> None:
        if self._limits_until is not None and self._monotonic() > self._limits_until:
            self._limits_until = None
            self._recorder.set_limits(None, None, None)

    def _apply_limits(self, response: httpx.Response) -> None:
        # This joins headers of the same name with commas.
        headers = dict(response.headers)
        # Most APIs send no header about rate limits.
        if not any("rate" in name for name in headers):
            return
        # If the server's time is in doubt, limits whose reset is a timestamp are ignored.
        limits, *others = (parse_limits(headers, now) for now in self._clock.possible_times(response))
        if limits is None or any(other != limits for other in others):
            return
        if limits.ignored and not self._logged_ignored:
            self._logged_ignored = True
            self._log.warning("rate limit headers ignored", source=self._source, error="; ".join(limits.ignored))
        remaining = 0.0 if limits.remaining is None and response.status_code == 429 else limits.remaining
        if limits.limit is None and remaining is None:
            return
        reset = None if limits.reset_seconds is None else self._clock.local() + limits.reset_seconds
        self._limits_until = self._monotonic() + LIMITS_MAX_AGE
        self._recorder.set_limits(limits.limit, remaining, reset)
        if remaining is not None and limits.reset_seconds is not None:
            self._budget.spread(limits.limit, remaining, limits.reset_seconds)


def inflate(stream: Iterable[bytes], limit: int, request: str) -> Iterator[bytes]:
    """Yield a gzip stream decompressed, in pieces of at most `limit` + 1 bytes.

    Raises DecodeError if it is not gzip, and NetworkError if it ends early.
    """
    member, empty = zlib.decompressobj(GZIP), True
    try:
        for raw in stream:
            empty, rest = False, raw
            while rest:
                # A gzip stream may consist of several members.
                if member.eof:
                    member = zlib.decompressobj(GZIP)
                yield member.decompress(rest, limit + 1)
                rest = member.unconsumed_tail or member.unused_data
    except zlib.error:
        raise DecodeError(f"{request}: the response's compression is broken") from None
    if not empty and not member.eof:
        raise NetworkError(f"{request}: the response ended early")


def endpoint_of(request: httpx.Request) -> str:
    """Return the template of a request's path. It may be logged; the URL may not."""
    return str(request.extensions.get("endpoint", "unnamed"))


def describe(request: httpx.Request) -> str:
    """Return a description of a request that may be logged."""
    return f"{request.method} {endpoint_of(request)}"


def proxy_error(status: int, request: httpx.Request) -> SourceError:
    """Return the error for a proxy's refusal. Only a refusal with 5xx is retryable."""
    message = f"{describe(request)}: the proxy refused with {status}"
    if status == PROXY_AUTH_REQUIRED:
        return ProxyRefusedError(f"{message}: check the user and the password in proxy_url")
    if status >= 500:
        return NetworkError(f"{message}: it cannot reach the API")
    return ProxyRefusedError(f"{message}: it does not allow this host")


def wrap_error(error: Exception, request: httpx.Request) -> SourceError:
    """Return the SourceError for a library's exception, without text that may quote the request."""
    if isinstance(error, TIMEOUTS):
        return TimedOutError(f"{describe(request)}: no response in time ({type(error).__name__})")
    refused = PROXY_STATUS.match(str(error)) if isinstance(error, PROXY_ERRORS) else None
    if refused is not None:
        return proxy_error(int(refused[1]), request)
    detail = f": {error}" if isinstance(error, CONNECT_ERRORS) else ""
    return NetworkError(f"{describe(request)}: {type(error).__name__}{detail}{hint_for(error, request)}")


def hint_for(error: Exception, request: httpx.Request) -> str:
    """Return a cure for a connection error; "" if there is none."""
    text = str(error)
    hint = next((hint for sign, hint in HINTS if sign in text), "")
    if not hint and request.url.scheme == "http" and isinstance(error, CLOSED_ERRORS):
        hint = "if the server speaks TLS on this port, base_url must begin with https://"
    return f": {hint}" if hint else ""
