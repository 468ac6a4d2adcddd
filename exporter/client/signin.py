"""Signing in for a token that is sent with each request, renewed before it ends, and once more when it is refused.

This is an `httpx.Auth`: a generator that says which request to send next and is given its response. A response of the
sign-in that is neither a token nor a refusal (5xx, 429, a redirect) is simply left as the answer to the whole request,
so that the client treats it like any other.
"""

import base64
import binascii
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence

import httpx
import msgspec

from exporter.client.budget import is_for_a_person
from exporter.client.limits import parse_date
from exporter.errors import AuthError

UNKNOWN_LIFE = 24 * 3600.0
SHORTEST_LIFE = 60.0
"""A token that seems to end sooner (or a clock that is wrong) must not cost a sign-in for each request."""
EARLY_SECONDS = 300.0
EARLY_PART = 0.1
PASSING = frozenset({408, 429})
"""Codes of 4xx that say nothing about the credential."""
LONGEST_TOKEN = 65536
Flow = Generator[httpx.Request, httpx.Response, "Token | None"]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token, the instant from which it shall be renewed, and its end; local clock, Unix seconds."""

    secret: str
    renew: float
    expiry: float | None

    def __repr__(self) -> str:
        return f"Token(renew={self.renew}, expiry={self.expiry})"


class Claims(msgspec.Struct, frozen=True):
    """What a JWT says of its life."""

    exp: float
    iat: float | None = None


class TokenAuth(httpx.Auth):
    """Base of all sign-ins; a subclass makes the request for a token and knows its name in the answer.

    The original request's `extensions` go along with the sign-in: budget, deadline, and the callback
    `credential_expiry`, which is told the end of each new token (None if unknown).
    """

    requires_response_body = True
    token_keys: Sequence[str] = ("accessToken", "access_token")

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None

    @abstractmethod
    def token_request(self, extensions: Mapping[str, object]) -> httpx.Request:
        """The request that signs in, with these extensions and its own `endpoint`."""

    @abstractmethod
    def refusal(self, status: int) -> str:
        """What a 4xx answer to the sign-in means, in words."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request with a token, after a sign-in if need be; on a 401 one more sign-in and one more try."""
        token = yield from self._valid_token(request, refused=None)
        if token is None:
            return
        response = yield with_token(request, token)
        if response.status_code != 401:
            return
        token = yield from self._valid_token(request, refused=token)
        if token is not None:
            yield with_token(request, token)

    def _valid_token(self, request: httpx.Request, refused: Token | None) -> Flow:
        """The token that all threads share, or a new one; None if the sign-in's response is to be the answer."""
        with self._lock:
            if self._token is not None and self._token is not refused and self._clock() < self._token.renew:
                return self._token
            # while this waits, polls wait for the token: so a person's sign-in does not wait for the budget
            patience = {"patience": 0.0} if is_for_a_person() else {}
            response = yield self.token_request({**request.extensions, **patience})
            self._token = self._accept(response)
            if self._token is not None:
                tell = request.extensions.get("credential_expiry")
                if tell is not None:
                    tell(self._token.expiry)
            return self._token

    def _accept(self, response: httpx.Response) -> Token | None:
        status = response.status_code
        if 400 <= status < 500 and status not in PASSING:
            raise AuthError(f"sign-in refused with {status}: {self.refusal(status)}")
        if not 200 <= status < 300:
            return None
        fields = _fields(response)
        secret = next((fields[key] for key in self.token_keys if fields.get(key)), None)
        if not isinstance(secret, str) or not secret.isascii() or not secret.isprintable():
            raise AuthError("the sign-in's answer holds no token")
        now = self._clock()
        skew = (parse_date(response.headers.get("date", "")) or now) - now
        return make_token(secret, fields.get("expires_in"), now, skew)


class BearerAuth(httpx.Auth):
    """Signs each request with a token that somebody made for us.

    `read` gives it as it is now: its file may have changed since the request before.
    """

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """The request with the token. Raises AuthError if there is none."""
        request.headers["Authorization"] = f"Bearer {secret_text(self._read)}"
        yield request


def with_token(request: httpx.Request, token: Token) -> httpx.Request:
    """The request, with this token."""
    request.headers["Authorization"] = f"Bearer {token.secret}"
    return request


def make_token(secret: str, expires_in: object, now: float, skew: float) -> Token:
    """A token with its life from the JWT, else from `expires_in`, else a day; `skew`: server's clock less ours."""
    claims = parse_claims(secret)
    if claims is not None:
        expiry = claims.exp - skew
        life = max(SHORTEST_LIFE, claims.exp - (claims.iat if claims.iat is not None else now + skew))
    else:
        known = isinstance(expires_in, int | float) and math.isfinite(expires_in) and expires_in > 0
        life = max(SHORTEST_LIFE, float(expires_in)) if known else UNKNOWN_LIFE  # type: ignore[arg-type]  # a number: `known`
        expiry = now + life
        if not known:
            return Token(secret=secret, renew=expiry - early(life), expiry=None)
    return Token(secret=secret, renew=max(now + SHORTEST_LIFE / 2, expiry - early(life)), expiry=expiry)


def early(life: float) -> float:
    """How long before its end a token of this life is renewed."""
    return min(EARLY_SECONDS, EARLY_PART * life)


def parse_claims(token: str) -> Claims | None:
    """The life that a JWT claims, without checking its signature; None if it is not one."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > LONGEST_TOKEN:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=Claims)
    except (binascii.Error, msgspec.DecodeError, ValueError, RecursionError):
        return None
    return claims if claims.exp > 0 else None


def secret_bytes(read: Callable[[], str]) -> bytes:
    """A secret as it is now, for a header. Raises AuthError if it cannot be had."""
    return secret_text(read).encode()


def secret_text(read: Callable[[], str]) -> str:
    """A secret as it is now. Raises AuthError if it cannot be had or is no single line."""
    try:
        secret = read().strip().strip("\ufeff").strip()  # some editors begin a file with a byte order mark
    except (OSError, ValueError) as error:
        raise AuthError(f"the credential could not be read ({type(error).__name__})") from None
    if not secret:
        raise AuthError("the credential is empty: check its file or variable")
    if not secret.isprintable():
        raise AuthError("the credential has line breaks or control characters within: its file must hold nothing else")
    return secret


def is_html(response: httpx.Response) -> bool:
    """Return whether an answer is a page for people, as login pages and proxies send it."""
    return response.content[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def _fields(response: httpx.Response) -> Mapping[str, object]:
    body, hint = response.content, ": it is HTML; is base_url the API's host?" if is_html(response) else ""
    try:
        return msgspec.json.decode(body, type=dict[str, object])
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise AuthError(f"the sign-in's answer is not a JSON object{hint}") from None
