"""HTTP client of one API, with a request budget and retries. Requests return a body or raise `exporter.errors`."""

import random
import time
from collections.abc import Callable, Mapping
from itertools import count
from urllib.parse import urlencode

import httpx
import msgspec

from exporter import __version__
from exporter.client.budget import Budget, Stopped
from exporter.client.clock import ServerClock
from exporter.client.limits import parse_retry_after
from exporter.client.network import NetworkSettings, NetworkTransport
from exporter.client.signin import is_html
from exporter.client.transport import BudgetedTransport, RequestRecorder, describe
from exporter.errors import (
    AuthError,
    ClientStatusError,
    DecodeError,
    ForbiddenError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    RedirectError,
    SchemaError,
    ServerStatusError,
    SourceError,
    TimedOutError,
)

__all__ = ["Client", "Environment", "NetworkSettings", "RequestRecorder"]

RETRIES = 2
FIRST_BACKOFF = 1.0
"""Maximum seconds before the first retry; doubled per retry. The wait is a random part of the maximum."""
RETRYABLE_STATUSES = frozenset({408, 429, *range(500, 600)})
HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "User-Agent": f"jobrun-exporter/{__version__}",
}
STATUS_ERRORS: Mapping[int, type[ClientStatusError]] = {403: ForbiddenError, 404: NotFoundError, 410: NotFoundError}
Params = Mapping[str, str | int | float]
Outcome = httpx.Response | SourceError


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks, sleep and randomness. `sleep` returns True if the process is shutting down."""

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], bool | None] = time.sleep
    random: Callable[[], float] = random.random


class Client:
    """Client of one API with one credential. Thread-safe.

    Args:
        root: Scheme, host and path prefix of all requests.
        network: Timeouts, TLS and proxy.
        transport: Replaces the network in tests.
        source: The source's name, for log lines.
        rate_limit_wait: Seconds without requests after a 429 without `Retry-After`.
    """

    def __init__(  # noqa: PLR0913  # dependencies are arguments, so that tests can replace them
        self,
        root: str,
        auth: httpx.Auth,
        budget: Budget,
        *,
        recorder: RequestRecorder | None = None,
        network: NetworkSettings | None = None,
        environment: Environment | None = None,
        transport: httpx.BaseTransport | None = None,
        source: str = "",
        rate_limit_wait: float = 0.0,
    ) -> None:
        self._root = root.rstrip("/")
        self._budget = budget
        self._recorder = recorder or RequestRecorder()
        self._environment = environment or Environment()
        settings = network or NetworkSettings()
        self._clock = ServerClock(self._environment.clock)
        self._rate_limit_wait = rate_limit_wait
        self._max_retry_after = min(60.0, 2 * settings.timeout)
        self._patience = max(60.0, 2 * budget.period)
        budgeted = BudgetedTransport(
            transport or NetworkTransport(settings, self._environment.monotonic),
            budget,
            self._recorder,
            timeout=settings.timeout,
            body_limit=settings.body_limit,
            clock=self._clock,
            monotonic=self._environment.monotonic,
            source=source,
        )
        self._http = httpx.Client(
            auth=auth,
            transport=budgeted,
            headers=HEADERS,
            trust_env=False,
            follow_redirects=False,
            timeout=settings.timeout,
        )

    def get(self, path: str, *, endpoint: str, params: Params | None = None, patience: float | None = None) -> bytes:
        """Return the body of the response.

        Args:
            path: Percent-encoded path after the root, with a leading slash.
            endpoint: Template of the path, for metrics and errors.
            params: Query parameters.
            patience: Seconds that each request may wait for the budget; None for twice the budget's period.

        Raises:
            SourceError: There was no usable response, even after up to two retries.
            Stopped: The process is shutting down.
        """
        for retry in count():
            outcome = self._try(path, endpoint, params, patience)
            wait = self._apply_retry_after(outcome)
            if retry == RETRIES or not is_retryable(outcome) or wait > self._max_retry_after:
                break
            self._pause(retry)
        if isinstance(outcome, SourceError):
            raise outcome
        return body_of(outcome)

    def wait(self) -> float:
        """Return the seconds until the budget allows the next request, as of now."""
        return self._budget.wait()

    def request_ages(self) -> list[float]:
        """Return the seconds since each request that still uses the budget of the credential."""
        return self._budget.request_ages()

    def now(self) -> float:
        """Return the current time by the API's clock, computed from the dates of its responses."""
        return self._clock.now()

    @property
    def skew(self) -> float:
        """Return the seconds by which the API's clock is ahead of the local clock; 0 until known."""
        return self._clock.skew

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _try(self, path: str, endpoint: str, params: Params | None, patience: float | None) -> Outcome:
        """Send a request, and send it again if the `Date` of its response is in doubt."""
        outcome, contradicts = self._send(path, endpoint, params, patience)
        # If the `Date` of a response contradicts earlier ones, a second request confirms or refutes it. A refused
        # request is not repeated, because a vendor may lock a credential after some refusals.
        if contradicts and isinstance(outcome, httpx.Response) and outcome.is_success:
            outcome, _ = self._send(path, endpoint, params, patience)
        return outcome

    def _send(self, path: str, endpoint: str, params: Params | None, patience: float | None) -> tuple[Outcome, bool]:
        """Send one request. Return the outcome, and whether its `Date` contradicts the `Date` of earlier responses."""
        extensions = {
            "endpoint": endpoint,
            "patience": self._patience if patience is None else patience,
            "credential_expiry": self._recorder.set_credential_expiry,
            "skew": self._clock.skew,
        }
        sent = self._environment.clock()
        try:
            # If httpx added the parameters, it would parse the URL twice.
            url = f"{self._root}{path}?{urlencode(params)}" if params else self._root + path
            request = self._http.build_request("GET", url, extensions=extensions)
            response = self._http.send(request)
        except (TimedOutError, NetworkError) as error:
            return error, False
        except httpx.InvalidURL:
            raise SchemaError(f"GET {endpoint}: an ID from the API makes the URL invalid") from None
        return response, self._clock.observe(response, sent)

    def _apply_retry_after(self, outcome: Outcome) -> float:
        """Block the budget for the seconds in `Retry-After`, or for `rate_limit_wait`. Return these seconds."""
        if not isinstance(outcome, httpx.Response) or outcome.status_code not in RETRYABLE_STATUSES:
            return 0.0
        # If the server's time is in doubt, the shorter wait is used. The next response corrects it.
        times = self._clock.possible_times(outcome)
        waits = [wait for now in times if (wait := parse_retry_after(outcome.headers, now)) is not None]
        seconds = min(waits, default=self._rate_limit_wait if outcome.status_code == 429 else 0.0)
        self._budget.block(seconds)
        return seconds

    def _pause(self, retry: int) -> None:
        # The wait is random ("full jitter"), so that many clients do not retry at the same time.
        if self._environment.sleep(self._environment.random() * FIRST_BACKOFF * 2**retry):
            raise Stopped
        self._recorder.count_retry()


def is_retryable(outcome: Outcome) -> bool:
    """Return whether a retry may succeed."""
    return isinstance(outcome, SourceError) or outcome.status_code in RETRYABLE_STATUSES


def body_of(response: httpx.Response) -> bytes:
    """Return the body of a 2xx response. Raises the error of any other status."""
    status = response.status_code
    request = describe(response.request)
    if is_plain_to_tls(response):
        raise ClientStatusError(f"{request}: {status}: the server speaks TLS: write https:// in base_url", status)
    if not response.is_success:
        raise error_for_status(status, request)
    if is_html(response):
        raise DecodeError(f"{request}: the response is HTML, not JSON: is base_url the API's host?")
    return response.content


def is_plain_to_tls(response: httpx.Response) -> bool:
    """Return whether a server reports that it received plain HTTP on a TLS port."""
    said = response.content[:2000].lower() if response.status_code == 400 else b""
    return response.request.url.scheme == "http" and b"http request" in said and b"https" in said


def error_for_status(status: int, request: str) -> SourceError:
    """Return the error of a status that is not 2xx."""
    message = f"{request}: {status}"
    if status >= 500:
        return ServerStatusError(message)
    if status == 401:
        return AuthError(f"{message}: the credential was refused")
    if status == 429:
        return RateLimitedError(f"{message}: too many requests")
    if status >= 400:
        return STATUS_ERRORS.get(status, ClientStatusError)(message, status)
    return RedirectError(f"{message}: redirects are not followed")
