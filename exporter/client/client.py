"""Asking one API: within its budget, with retries, and with every outcome as an answer or one of `exporter.errors`."""

import random
import time
from collections.abc import Callable, Mapping

import httpx
import msgspec

from exporter import __version__
from exporter.client.budget import Budget, Stopped
from exporter.client.limits import parse_age, parse_date, parse_retry_after
from exporter.client.network import NetworkSettings, NetworkTransport
from exporter.client.signin import is_html
from exporter.client.transport import BudgetedTransport, Meter, NullMeter, what
from exporter.errors import (
    AuthError,
    ClientStatusError,
    DecodeError,
    ForbiddenError,
    NetworkError,
    NotFoundError,
    ProxyRefusedError,
    RateLimitedError,
    RedirectError,
    SchemaError,
    ServerStatusError,
    SourceError,
    TimedOutError,
)

__all__ = ["Answer", "Client", "Environment", "Meter", "NetworkSettings", "NullMeter"]

LEAST_SKEW = 5.0
"""Seconds; a `Date` header tells whole ones, and the answer was under way for a while."""
RETRIES = 2
FIRST_BACKOFF = 1.0
"""Seconds; doubled for each retry, and then a random part of it is waited."""
PASSING = frozenset({408, 429, *range(500, 600)})
"""Codes that may be gone at the next try."""
HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
    "User-Agent": f"jobrun-exporter/{__version__}",
}
REFUSALS: Mapping[int, type[ClientStatusError]] = {403: ForbiddenError, 404: NotFoundError}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer of 2xx. `date`: the server's clock as Unix seconds, where it told it. Header names are lower case."""

    body: bytes
    status: int
    date: float | None
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, {len(self.body)} bytes)"


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """Clocks, sleep and chance. `sleep` returns True if the process is shutting down."""

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], bool | None] = time.sleep
    random: Callable[[], float] = random.random


class Client:
    """One API with one credential; may be used by several threads.

    `root` is scheme, host and the path before all others. `transport` replaces the network in tests. `skew` is how far
    the API's clock is ahead of ours, in seconds, 0 while that is not known. `source` names it in log lines.
    """

    def __init__(  # noqa: PLR0913  # everything outside is an argument
        self,
        root: str,
        auth: httpx.Auth,
        budget: Budget,
        *,
        meter: Meter | None = None,
        network: NetworkSettings | None = None,
        surroundings: Environment | None = None,
        transport: httpx.BaseTransport | None = None,
        source: str = "",
    ) -> None:
        self._root = root.rstrip("/")
        self._budget = budget
        self._meter = meter or NullMeter()
        self._outside = surroundings or Environment()
        settings = network or NetworkSettings()
        self.skew = 0.0
        self._doubted: float | None = None  # a difference that one answer has shown, and no other yet
        self._longest_pause = min(60.0, 2 * settings.timeout)
        self._patience = max(60.0, 2 * budget.period)
        budgeted = BudgetedTransport(
            transport or NetworkTransport(settings, self._outside.monotonic),
            budget,
            self._meter,
            timeout=settings.timeout,
            body_limit=settings.body_limit,
            clock=self._outside.clock,
            monotonic=self._outside.monotonic,
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

    def get(
        self,
        path: str,
        *,
        endpoint: str,
        params: Mapping[str, str | int | float] | None = None,
        patience: float | None = None,
    ) -> Answer:
        """Asks for `path` (with its leading slash, parts already quoted), which is counted as `endpoint`.

        `patience`: seconds that each request may wait for the budget; by default twice the budget's period.

        Raises:
            SourceError: There was no usable answer, after up to two retries where those could help.
            Stopped: The process is shutting down.
        """
        outcome = self._ask(path, endpoint, params, patience)
        for retry in range(RETRIES):
            if not is_retryable(outcome) or self._told_to_wait(outcome) > self._longest_pause:
                break
            self._pause(retry)
            outcome = self._ask(path, endpoint, params, patience)
        if isinstance(outcome, SourceError):
            raise outcome
        self._told_to_wait(outcome)
        return answer(outcome)

    def wait(self) -> float:
        """Seconds until the budget lets the next request go, as it looks now."""
        return self._budget.wait()

    def now(self) -> float:
        """The present by the API's clock, as far as its answers have told it."""
        return self._outside.clock() + self.skew

    def close(self) -> None:
        """Ends all connections."""
        self._http.close()

    def _jumped(self, response: httpx.Response, sent: float) -> bool:
        """Compare the API's clock with ours; return whether its answer differs from the ones before it.

        One odd `Date` (of a cache, or of one bad node) must change nothing, so a new difference is believed only when
        the next answer shows the same. A wrong clock of ours would ask for windows that lie in the future, or hold
        endings for older than they are.
        """
        skew = self._shown_skew(response, sent)
        if skew is None:
            return False
        if abs(skew - self.skew) < LEAST_SKEW:
            self._doubted, self.skew = None, skew
            return False
        if self._doubted is not None and abs(skew - self._doubted) < LEAST_SKEW:
            self._doubted, self.skew = None, skew
            return False
        self._doubted = skew
        return True

    def _shown_skew(self, response: httpx.Response, sent: float) -> float | None:
        """Return by how much an answer shows the API's clock ahead of ours, in seconds; less than it can tell is 0.

        The answer was written at some time since `sent`: that it took long is no sign of a wrong clock.
        """
        date = parse_date(response.headers.get("date", ""))
        if date is None:
            return None
        date += parse_age(response.headers.get("age", ""))
        ahead, behind = date - self._outside.clock(), date - sent
        skew = ahead if ahead > 0 else min(behind, 0.0)
        return 0.0 if abs(skew) < LEAST_SKEW else skew

    def _ask(
        self, path: str, endpoint: str, params: Mapping[str, str | int | float] | None, patience: float | None
    ) -> httpx.Response | SourceError:
        """Return the response of one try, whatever its code, or the error that a further try might not meet.

        Where its `Date` is not the expected one, the same is asked once more, which confirms or refutes it.
        """
        sent = self._outside.clock()
        outcome = self._send(path, endpoint, params, patience)
        jumped = isinstance(outcome, httpx.Response) and self._jumped(outcome, sent)
        if not jumped or is_retryable(outcome):  # what is tried again anyway tells the time again
            return outcome
        sent = self._outside.clock()
        again = self._send(path, endpoint, params, patience)
        if isinstance(again, httpx.Response):
            self._jumped(again, sent)
        return again

    def _send(
        self, path: str, endpoint: str, params: Mapping[str, str | int | float] | None, patience: float | None
    ) -> httpx.Response | SourceError:
        extensions = {
            "endpoint": endpoint,
            "patience": self._patience if patience is None else patience,
            "credential_expiry": self._meter.credential_expiry,
        }
        try:
            request = self._http.build_request("GET", self._root + path, params=params, extensions=extensions)
            return self._http.send(request)
        except (TimedOutError, NetworkError) as error:
            return error
        except httpx.InvalidURL:
            raise SchemaError(f"GET {endpoint}: an id of the API gives no valid address") from None

    def _told_to_wait(self, outcome: httpx.Response | SourceError) -> float:
        """Seconds that the server wants to be left alone; the budget heeds them for all who share it."""
        if not isinstance(outcome, httpx.Response) or outcome.status_code not in PASSING:
            return 0.0
        now = parse_date(outcome.headers.get("date", "")) or self._outside.clock()
        seconds = parse_retry_after(outcome.headers, now) or 0.0
        self._budget.blocked_until(seconds)
        return seconds

    def _pause(self, retry: int) -> None:
        """Full jitter: retries of many clients must not come together."""
        if self._outside.sleep(self._outside.random() * FIRST_BACKOFF * 2**retry):
            raise Stopped
        self._meter.retry()


def is_retryable(outcome: httpx.Response | SourceError) -> bool:
    """Whether another try could do better."""
    if isinstance(outcome, SourceError):
        return not isinstance(outcome, ProxyRefusedError)
    return outcome.status_code in PASSING


def answer(response: httpx.Response) -> Answer:
    """The answer of a response of 2xx; any other raises the error that belongs to its code."""
    status = response.status_code
    request = what(response.request)
    if is_plain_to_tls(response):
        raise ClientStatusError(f"{request}: {status}: the server speaks TLS: write https:// in base_url", status)
    if not 200 <= status < 300:
        raise refusal(status, request)
    if is_html(response):
        raise DecodeError(f"{request}: the answer is HTML, not JSON: is base_url the API's host?")
    return Answer(
        body=response.content,
        status=status,
        date=parse_date(response.headers.get("date", "")),
        headers=dict(response.headers),
    )


def is_plain_to_tls(response: httpx.Response) -> bool:
    """Return whether a server says that it got plain HTTP on a port where it speaks TLS, as several do."""
    said = response.content[:2000].lower() if response.status_code == 400 else b""
    return response.request.url.scheme == "http" and b"http request" in said and b"https" in said


def refusal(status: int, request: str) -> SourceError:
    """The error for a code that is not 2xx."""
    message = f"{request}: {status}"
    if status >= 500:
        return ServerStatusError(message)
    if status == 401:
        return AuthError(f"{message}: the credential was refused")
    if status == 429:
        return RateLimitedError(f"{message}: too many requests")
    if status >= 400:
        return REFUSALS.get(status, ClientStatusError)(message, status)
    return RedirectError(f"{message}: redirects are not followed")
