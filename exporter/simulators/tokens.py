"""Bearer tokens with an expiry."""

import base64
import itertools
import threading
from collections.abc import Callable

import msgspec


class Tokens:
    """Issues JWTs that look signed, and checks whether they are still valid."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._expiries: dict[str, float] = {}

    def issue(self, lifetime: float) -> str:
        """Return a new token that is valid for some seconds, up to a whole second."""
        with self._lock:
            number = next(self._numbers)
            now = self._clock()
            self._expiries = {token: expiry for token, expiry in self._expiries.items() if expiry > now}
            expiry = int(now + lifetime)
            token = jwt({"iat": int(now), "exp": expiry, "jti": str(number)})
            self._expiries[token] = expiry
            return token

    def good(self, token: str) -> bool:
        """Return whether a token was issued here, is not revoked, and has not expired."""
        return self._expiries.get(token, 0.0) > self._clock()

    def revoke_all(self) -> None:
        """Revoke all tokens."""
        with self._lock:
            self._expiries = {}


def jwt(claims: dict[str, object]) -> str:
    """Return a JWT that looks signed with HS256. Its signature is invalid."""
    parts = (msgspec.json.encode({"alg": "HS256", "typ": "JWT"}), msgspec.json.encode(claims), b"0" * 32)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
