"""Checks passwords against bcrypt hashes. bcrypt is slow on purpose, so results are cached and checks are limited."""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import bcrypt

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
