"""Signs in for a token, sends it with each request, and renews it before it expires or when it is refused.

A sign-in is an `httpx.Auth`: a generator that yields the next request and receives its response. If the response of the
sign-in is neither a token nor a refusal (5xx, 429, a redirect), it becomes the response of the whole request, so that
the client handles it.
"""

import base64
import binascii
import math
import threading
import time
from collections.abc import Callable, Generator, Mapping

import httpx
import msgspec

from exporter.client.budget import is_for_page
from exporter.client.clock import MIN_SKEW
from exporter.client.limits import parse_date
from exporter.errors import AuthError

# Lifetime of a token in seconds, if neither the token nor the response states it.
DEFAULT_LIFE = 24 * 3600.0
# Minimum lifetime in seconds. With a shorter lifetime or a wrong clock, every request would sign in.
MIN_LIFE = 60.0
# A token is renewed when this fraction of its lifetime is left, but at most this many seconds before its expiry.
RENEWAL_FRACTION, MAX_RENEWAL_MARGIN = 0.1, 300.0
RETRYABLE_STATUSES = frozenset({408, 429})
"""4xx statuses that are not a refusal of the credential."""
MAX_TOKEN_LENGTH = 65536
TOKEN_KEYS = ("accessToken", "access_token")
"""Fields of the response that may have the token."""
Flow = Generator[httpx.Request, httpx.Response, "Token | None"]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token, and the times of its renewal and its expiry by the local clock. `expiry`: None if unknown."""

    secret: str
    renew: float
    expiry: float | None

    def __repr__(self) -> str:
        return f"Token(renew={self.renew}, expiry={self.expiry})"


class Claims(msgspec.Struct, frozen=True):
    """The times at which a JWT expires and was issued."""

    exp: float
    iat: float | None = None


class TokenAuth(httpx.Auth):
    """Signs in for a token.

    The sign-in uses the `extensions` of the original request: `patience`, `skew` (seconds by which the API's clock is
    ahead of the local clock) and the callback `credential_expiry`, which gets the expiry of each new token.

    Args:
        endpoint: Template of the sign-in's path.
        token_request: Returns the request for a token. It is called for each sign-in, because secrets may change.
        refusals: What each 4xx status of a sign-in means.
        other_refusal: What any other 4xx status means.
    """

    requires_response_body = True

    def __init__(
        self,
        endpoint: str,
        token_request: Callable[[], httpx.Request],
        *,
        refusals: Mapping[int, str],
        other_refusal: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._token_request = token_request
        self._refusals, self._other_refusal = refusals, other_refusal
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request with a token. Sign in if there is none. After a 401, sign in and send the request again."""
        refused: Token | None = None
        for _ in range(2):
            token = yield from self._valid_token(request, refused)
            if token is None:
                return
            request.headers["Authorization"] = f"Bearer {token.secret}"
            response = yield request
            if response.status_code != 401:
                return
            refused = token

    def _valid_token(self, request: httpx.Request, refused: Token | None) -> Flow:
        """Return the token that all threads share, or a new one; None if the sign-in's response answers the request."""
        with self._lock:
            if self._token is not None and self._token is not refused and self._clock() < self._token.renew:
                return self._token
            sign_in = self._token_request()
            sign_in.extensions = {**request.extensions, "endpoint": self._endpoint}
            if is_for_page():
                # A sign-in for a page does not wait for the budget, because polls would wait for this lock.
                sign_in.extensions["patience"] = 0.0
            response = yield sign_in
            self._token = self._accept(response, request.extensions.get("skew", 0.0))
            if self._token is not None and (report := request.extensions.get("credential_expiry")):
                report(self._token.expiry)
            return self._token

    def _accept(self, response: httpx.Response, skew: float) -> Token | None:
        status = response.status_code
        if 400 <= status < 500 and status not in RETRYABLE_STATUSES:
            raise AuthError(f"sign-in refused with {status}: {self._refusals.get(status, self._other_refusal)}")
        if not response.is_success:
            return None
        fields = _fields(response)
        secret = next((fields[key] for key in TOKEN_KEYS if fields.get(key)), None)
        if not isinstance(secret, str) or not secret.isascii() or not secret.isprintable():
            raise AuthError("the response of the sign-in contains no token")
        now, claims, date = self._clock(), parse_claims(secret), parse_date(response.headers.get("date", ""))
        # The `Date` of a single response may be wrong. It is right if the token was issued at this time.
        if claims and claims.iat is not None and date is not None and abs(claims.iat - date) < MIN_SKEW:
            skew = date - now
        return make_token(secret, fields.get("expires_in"), now, skew)


class BearerAuth(httpx.Auth):
    """Signs each request with a fixed token.

    `read` returns the token's current value, because its file may change.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send the request with the token. Raises AuthError if the token cannot be read."""
        request.headers["Authorization"] = f"Bearer {secret_text(self._read)}"
        yield request


def make_token(secret: str, expires_in: object, now: float, skew: float) -> Token:
    """Return a token. Its JWT or `expires_in` states its lifetime. If neither does, it is renewed after a day."""
    expiry, life = None, DEFAULT_LIFE
    claims = parse_claims(secret)
    if claims is not None:
        expiry, life = claims.exp - skew, claims.exp - (now + skew if claims.iat is None else claims.iat)
    elif isinstance(expires_in, int | float) and math.isfinite(expires_in) and expires_in > 0:
        expiry, life = now + expires_in, expires_in
    margin = min(MAX_RENEWAL_MARGIN, RENEWAL_FRACTION * max(MIN_LIFE, life))
    renew = (now + life if expiry is None else expiry) - margin
    return Token(secret=secret, renew=max(now + MIN_LIFE / 2, renew), expiry=expiry)


def parse_claims(token: str) -> Claims | None:
    """Return the times of a JWT, without checking its signature; None if the token is not a JWT."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > MAX_TOKEN_LENGTH:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=Claims)
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        return None
    return claims if claims.exp > 0 else None


def secret_text(read: Callable[[], str]) -> str:
    """Return the current value of a secret. Raises AuthError if it cannot be read or is not a single line."""
    # Some editors begin a file with a byte order mark.
    secret = read().strip().strip("\ufeff").strip()
    if not secret:
        raise AuthError("the credential is empty: check its file or variable")
    if not secret.isprintable():
        raise AuthError("the credential contains line breaks or control characters: remove all else from its file")
    return secret


def is_html(response: httpx.Response) -> bool:
    """Return whether a response is an HTML page, for example of a login or a proxy."""
    return response.content[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def _fields(response: httpx.Response) -> Mapping[str, object]:
    body, hint = response.content, ": it is HTML; is base_url the API's host?" if is_html(response) else ""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise AuthError(f"the response of the sign-in is not a JSON object{hint}") from None
