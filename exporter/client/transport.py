"""What every physical request passes, sign-in and retries included: budget, meter, limits on time and size."""

import re
import zlib
from collections.abc import Callable
from typing import Protocol

import httpcore
import httpx
import structlog

from exporter.client.budget import Budget
from exporter.client.limits import parse_date, parse_limits
from exporter.errors import DecodeError, NetworkError, ProxyRefusedError, SourceError, TimedOutError

TIMEOUTS = (httpx.TimeoutException, httpcore.TimeoutException)
FAULTS = (
    httpx.TransportError,
    httpx.StreamError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)
TELLING = (httpx.ConnectError, httpcore.ConnectError)
"""Their texts are those of the operating system and of TLS; other texts may quote what was sent."""
PROXY_ERRORS = (httpx.ProxyError, httpcore.ProxyError)
PROXY_STATUS = re.compile(r"(\d{3})\b")
PROXY_WANTS_PASSWORD = 407
BROKEN_OFF = (httpx.RemoteProtocolError, httpx.ReadError, httpcore.RemoteProtocolError, httpcore.ReadError)
"""What a server that speaks TLS makes of a plain request."""
PLAIN_HTTP = "the server speaks plain HTTP on this port: write http:// in base_url (or in proxy_url), or another port"
CURES = (
    ("WRONG_VERSION_NUMBER", PLAIN_HTTP),
    ("RECORD_LAYER_FAILURE", PLAIN_HTTP),
    ("HTTP_REQUEST", PLAIN_HTTP),
    ("Hostname mismatch", "the certificate is for another name than the host of base_url"),
    ("IP address mismatch", "the certificate is for another address than the host of base_url"),
    ("certificate has expired", "the server needs a new certificate"),
    ("CERTIFICATE_VERIFY_FAILED", "where the authority is your own, name its certificate in tls.ca_file"),
    ("CERTIFICATE_REQUIRED", "the server wants a client certificate: set tls.cert_file and tls.key_file"),
    ("Name or service not known", "check the host of base_url, or the DNS"),
    ("Connection refused", "check the host and the port of base_url"),
)
"""Signs in the text of an error of a connection, and what to do about it."""
HANDLED_HERE = frozenset({b"content-encoding", b"content-length", b"transfer-encoding", b"set-cookie"})
GZIP = 31
"""zlib's `wbits` for the gzip format."""


class Meter(Protocol):
    """What is told of each request."""

    def request(self, endpoint: str, code: str, seconds: float) -> None:
        """One request to an endpoint (template) was answered with this code, or got `timeout` or `network`."""

    def retry(self) -> None:
        """A request is sent again."""

    def waited(self, seconds: float) -> None:
        """So long a request waited for the budget."""

    def limits(self, limit: float | None, remaining: float | None, reset: float | None) -> None:
        """What the server says of its rate limit; `reset` is an instant in Unix seconds."""

    def credential_expiry(self, timestamp: float | None) -> None:
        """When the credential in use ends, None if unknown."""


class NullMeter:
    """A meter that keeps nothing."""

    def request(self, endpoint: str, code: str, seconds: float) -> None:
        """Nothing."""

    def retry(self) -> None:
        """Nothing."""

    def waited(self, seconds: float) -> None:
        """Nothing."""

    def limits(self, limit: float | None, remaining: float | None, reset: float | None) -> None:
        """Nothing."""

    def credential_expiry(self, timestamp: float | None) -> None:
        """Nothing."""


LIMITS_BELIEVED = 900.0
"""Seconds for which what the server said of its rate limit is shown after it has said it last."""


class BudgetedTransport(httpx.BaseTransport):
    """A transport that waits for the budget, reads the whole body within bounds, and tells the meter.

    Requests carry in `extensions`: `endpoint` (the template to name it by), `patience` (seconds it may wait for the
    budget). `source` names it in log lines. Raises errors of `exporter.errors`, and `Stopped` from the budget.
    """

    def __init__(  # noqa: PLR0913  # everything outside is an argument
        self,
        inner: httpx.BaseTransport,
        budget: Budget,
        meter: Meter,
        *,
        timeout: float,
        body_limit: int,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        source: str = "",
    ) -> None:
        self._inner = inner
        self._source = source
        self._log = structlog.get_logger()
        self._told_ignored = False
        self._budget = budget
        self._meter = meter
        self._timeout = timeout
        self._timeouts = httpx.Timeout(timeout).as_dict()
        self._body_limit = body_limit
        self._clock = clock
        self._monotonic = monotonic
        self._limits_until: float | None = monotonic() + LIMITS_BELIEVED

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One request and its whole answer, decompressed."""
        self._wait(request.extensions.get("patience", 2 * self._timeout))
        started = self._monotonic()
        request.extensions["deadline"] = started + 2 * self._timeout
        # A request that a sign-in made has no timeouts of its own; none would mean for ever.
        request.extensions["timeout"] = self._timeouts
        code = "network"
        try:
            response = self._exchange(request)
            code = str(response.status_code)
        except TimedOutError:
            code = "timeout"
            raise
        finally:
            self._meter.request(endpoint_of(request), code, self._monotonic() - started)
            self._forget_limits()
        if response.status_code == PROXY_WANTS_PASSWORD:
            raise proxy_refused(response.status_code, request)
        if response.status_code < 400:
            self._budget.answered_well(started)
        self._heed_limits(response)
        return response

    def close(self) -> None:
        """Ends all connections."""
        self._inner.close()

    def _wait(self, patience: float) -> None:
        self._budget.acquire(self._monotonic() + patience, self._meter.waited)

    def _exchange(self, request: httpx.Request) -> httpx.Response:
        try:
            response = self._inner.handle_request(request)
            try:
                body = self._body(response, request)
            finally:
                response.close()
        except TIMEOUTS + FAULTS as error:
            raise wrap_error(error, request) from None
        # As bytes: they may be anything, and texts would have to be ASCII.
        headers = [pair for pair in response.headers.raw if pair[0].lower() not in HANDLED_HERE]
        return httpx.Response(response.status_code, headers=headers, content=body)

    def _body(self, response: httpx.Response, request: httpx.Request) -> bytes:
        """The body, decompressed piece by piece so that it never outgrows the limit by more than a piece."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        inflate = Inflater(self._body_limit) if encoding in ("gzip", "x-gzip") else None
        pieces: list[bytes] = []
        size = 0
        for raw in response.stream if isinstance(response.stream, httpx.SyncByteStream) else ():
            piece = raw if inflate is None else inflate(raw, what(request))
            size += len(piece)
            if size > self._body_limit:
                raise DecodeError(f"{what(request)}: the answer is larger than {self._body_limit} bytes")
            if self._monotonic() > request.extensions["deadline"]:
                raise TimedOutError(f"{what(request)}: no whole answer within {2 * self._timeout:g} s")
            pieces.append(piece)
        if inflate is not None and pieces and not inflate.whole:
            raise NetworkError(f"{what(request)}: the answer broke off")
        return b"".join(pieces)

    def _forget_limits(self) -> None:
        """Show no rate limit any more once the server has said nothing of it for long."""
        if self._limits_until is not None and self._monotonic() > self._limits_until:
            self._limits_until = None
            self._meter.limits(None, None, None)

    def _heed_limits(self, response: httpx.Response) -> None:
        # several lines of one name are joined by commas here
        headers = dict(response.headers)
        if not any("rate" in name for name in headers):  # most APIs: spares a dozen look-ups and a date
            return
        limits = parse_limits(headers, parse_date(headers.get("date", "")) or self._clock())
        if limits is None:
            return
        if limits.ignored and not self._told_ignored:
            self._told_ignored = True
            self._log.warning("rate limit headers ignored", source=self._source, error="; ".join(limits.ignored))
        if limits.limit is None and limits.remaining is None:
            return
        reset = None if limits.reset_seconds is None else self._clock() + limits.reset_seconds
        self._limits_until = self._monotonic() + LIMITS_BELIEVED
        self._meter.limits(limits.limit, limits.remaining, reset)
        if limits.remaining is not None and limits.reset_seconds is not None:
            self._budget.observe(limits.limit, limits.remaining, limits.reset_seconds)


class Inflater:
    """Decompresses gzip in pieces, never more than `limit` bytes and one at a time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._member = zlib.decompressobj(GZIP)

    @property
    def whole(self) -> bool:
        """Whether the last gzip member ended."""
        return self._member.eof

    def __call__(self, raw: bytes, request: str) -> bytes:
        """What this piece decompresses to. Raises DecodeError if it is not gzip."""
        piece = b""
        try:
            while raw and len(piece) <= self._limit:
                if self._member.eof:  # gzip may be several members one after another
                    self._member = zlib.decompressobj(GZIP)
                piece += self._member.decompress(raw, self._limit + 1 - len(piece))
                raw = self._member.unused_data
        except zlib.error:
            raise DecodeError(f"{request}: the answer's compression is broken") from None
        return piece


def endpoint_of(request: httpx.Request) -> str:
    """The template by which a request is named, never its URL."""
    return str(request.extensions.get("endpoint", "unnamed"))


def what(request: httpx.Request) -> str:
    """A request in words that may be logged."""
    return f"{request.method} {endpoint_of(request)}"


def proxy_refused(status: int, request: httpx.Request) -> SourceError:
    """Return the error for a proxy's refusal; only some of them may be gone at the next try."""
    message = f"{what(request)}: the proxy refused with {status}"
    if status == PROXY_WANTS_PASSWORD:
        return ProxyRefusedError(f"{message}: check the user and the password in proxy_url")
    if status >= 500:
        return NetworkError(f"{message}: it cannot reach the API")
    return ProxyRefusedError(f"{message}: it does not allow this host")


def wrap_error(error: Exception, request: httpx.Request) -> SourceError:
    """A library's exception as ours, without what it quotes."""
    if isinstance(error, TIMEOUTS):
        return TimedOutError(f"{what(request)}: no answer in time ({type(error).__name__})")
    refused = PROXY_STATUS.match(str(error)) if isinstance(error, PROXY_ERRORS) else None
    if refused is not None:
        return proxy_refused(int(refused[1]), request)
    detail = f": {error}" if isinstance(error, TELLING) else ""
    return NetworkError(f"{what(request)}: {type(error).__name__}{detail}{cure(error, request)}")


def cure(error: Exception, request: httpx.Request) -> str:
    """Return what to do about an error of a connection, "" where that is not known."""
    text = str(error)
    hint = next((hint for sign, hint in CURES if sign in text), "")
    if not hint and request.url.scheme == "http" and isinstance(error, BROKEN_OFF):
        hint = "if the server speaks TLS on this port, base_url must begin with https://"
    return f": {hint}" if hint else ""
