"""Basic auth and response headers of the web config file, for every path.

bcrypt is slow on purpose, so its results are cached, and its checks are limited.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import NamedTuple

import bcrypt
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.web.file import ActiveWebConfig

CHALLENGE = {"WWW-Authenticate": 'Basic realm="jobrun-exporter", charset="UTF-8"'}

MAX_CACHED = 100
"""Maximum number of cached valid passwords, and of cached invalid ones."""

MAX_CHECKS, MAX_CHECKS_PER_CLIENT = 32, 4
"""Maximum number of checks that wait or run: in total, and for one client."""


class Credentials(NamedTuple):
    """User and password that a client has sent."""

    user: bytes
    password: bytes


class TooManyChecksError(Exception):
    """The result is not cached, and too many checks are waiting already."""


class Passwords:
    """Checks passwords and caches the results. Only one event loop may use it. `check`: a function like bcrypt's."""

    def __init__(self, check: Callable[[bytes, bytes], bool] = bcrypt.checkpw) -> None:
        self._check = check
        # Results are cached by a keyed digest of user, bcrypt hash and password, so that no password stays in memory.
        self._key = secrets.token_bytes(32)
        # Two caches, so that guessed passwords cannot evict valid ones.
        self._valid: dict[bytes, None] = {}
        self._invalid: dict[bytes, None] = {}
        self._checks: dict[bytes, tuple[str, asyncio.Task[bool]]] = {}
        self._bcrypt = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")

    async def accepts(self, claimed: Credentials, users: Mapping[bytes, bytes], client: str) -> bool:
        """Return whether a password is valid. Raises TooManyChecksError. `users`: bcrypt hashes by name."""
        is_known = claimed.user in users
        # The password of an unknown user is checked against another user's hash. Otherwise the faster response would
        # reveal that the user is unknown.
        bcrypt_hash = users[claimed.user] if is_known else self._hash_of_another(claimed.user, users)
        parts = (claimed.user, bcrypt_hash, claimed.password)
        digest = self._digest(b"".join(len(part).to_bytes(8) + part for part in parts))
        for cache in (self._valid, self._invalid):
            if digest in cache:
                _cache(cache, digest)
                return cache is self._valid and is_known
        # The check is shielded, because other requests may wait for the same result.
        return await asyncio.shield(self._start_check(digest, claimed.password, bcrypt_hash, client)) and is_known

    def _start_check(self, digest: bytes, password: bytes, bcrypt_hash: bytes, client: str) -> asyncio.Task[bool]:
        if digest in self._checks:
            return self._checks[digest][1]
        checks_of_client = sum(each == client for each, _ in self._checks.values())
        if len(self._checks) >= MAX_CHECKS or checks_of_client >= MAX_CHECKS_PER_CLIENT:
            raise TooManyChecksError
        task = asyncio.create_task(self._run_check(digest, password, bcrypt_hash))
        self._checks[digest] = client, task
        return task

    async def _run_check(self, digest: bytes, password: bytes, bcrypt_hash: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            # bcrypt uses only the first 72 bytes. Newer versions refuse longer passwords.
            is_valid = await loop.run_in_executor(self._bcrypt, self._check, password[:72], bcrypt_hash)
        finally:
            del self._checks[digest]
        _cache(self._valid if is_valid else self._invalid, digest)
        return is_valid

    def _hash_of_another(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        return list(users.values())[int.from_bytes(self._digest(user)) % len(users)]

    def _digest(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, hashlib.sha256)


def _cache(cache: dict[bytes, None], digest: bytes) -> None:
    """Add a digest as the newest entry, and remove the oldest above MAX_CACHED."""
    cache.pop(digest, None)
    cache[digest] = None
    if len(cache) > MAX_CACHED:
        del cache[next(iter(cache))]


class SecuredApplication:
    """An application with basic auth and additional headers for every path. `active`: returns the web config."""

    def __init__(self, app: ASGIApp, active: Callable[[], ActiveWebConfig], passwords: Passwords | None = None) -> None:
        self._app = app
        self._active = active
        self._passwords = passwords or Passwords()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        active = self._active()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(active.headers)
            await send(message)

        refusal = await self._refusal(scope, active) if active.users else None
        await (refusal or self._app)(scope, receive, send_with_headers)

    async def _refusal(self, scope: Scope, active: ActiveWebConfig) -> ASGIApp | None:
        """Return the response to a request without a valid password; None if its password is valid."""
        claimed = credentials_of(scope)
        client = scope["client"][0] if scope.get("client") else ""
        try:
            if claimed is not None and await self._passwords.accepts(claimed, active.users, client):
                return None
        except TooManyChecksError:
            return _response(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "1"})
        return _response(HTTPStatus.UNAUTHORIZED, CHALLENGE)


def _response(status: HTTPStatus, headers: dict[str, str]) -> ASGIApp:
    return PlainTextResponse(f"{status.phrase}\n", status, headers)


def credentials_of(scope: Scope) -> Credentials | None:
    """Return user and password of a request's `Authorization: Basic` header; None if there are none."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, encoded = given.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return Credentials(user, password) if colon else None
