"""Checks passwords against bcrypt hashes. bcrypt is slow by design, so results are cached and queues are bounded."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

MAX_CACHED = 100
"""Maximum number of cached right passwords, and of cached wrong ones."""

MAX_CHECKS = 32
"""Maximum number of waiting checks."""

MAX_CHECKS_PER_CLIENT = 4

MAX_PASSWORD_BYTES = 72
"""Number of bytes of a password that bcrypt uses."""

Digest = bytes


class Credentials(NamedTuple):
    """User and password as a client sends them."""

    user: bytes
    password: bytes


class TooManyChecksError(Exception):
    """Too many checks are waiting."""


class Passwords:
    """Checks passwords with a function such as bcrypt's, and caches the results."""

    def __init__(self, key: bytes, check: Callable[[bytes, bytes], bool]) -> None:
        # Results are stored by a keyed hash of user, bcrypt hash and password, so that no password stays in memory.
        self._key = key
        self._check = check
        # Right and wrong passwords are stored apart, so that guesses cannot evict passwords in use.
        self._right: dict[Digest, None] = {}
        self._wrong: dict[Digest, None] = {}
        self._checks: dict[Digest, tuple[str, asyncio.Task[bool]]] = {}
        self._bcrypt = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")

    async def accepts(self, claimed: Credentials, users: Mapping[bytes, bytes], client: str) -> bool:
        """Return whether this is a user's password. Must be called by one event loop only.

        Raises:
            TooManyChecksError: The result is not known yet, and too many checks are waiting in total or of this client.
        """
        hash_of_user = users.get(claimed.user)
        # An unknown user is checked against the hash of a known one, so that both checks take equally long.
        bcrypt_hash = self._decoy(claimed.user, users) if hash_of_user is None else hash_of_user
        parts = (claimed.user, bcrypt_hash, claimed.password)
        identity = self._digest(b"".join(len(part).to_bytes(8) + part for part in parts))
        for cache in (self._right, self._wrong):
            if identity in cache:
                _cache(cache, identity)
                return cache is self._right and hash_of_user is not None
        # The check is shielded, because other requests may wait for the same result.
        return (
            await asyncio.shield(self._start_check(identity, claimed.password, bcrypt_hash, client))
            and hash_of_user is not None
        )

    def _start_check(self, identity: Digest, password: bytes, bcrypt_hash: bytes, client: str) -> asyncio.Task[bool]:
        if identity in self._checks:
            return self._checks[identity][1]
        of_client = sum(waiting == client for waiting, _ in self._checks.values())
        if len(self._checks) >= MAX_CHECKS or of_client >= MAX_CHECKS_PER_CLIENT:
            raise TooManyChecksError
        task = asyncio.create_task(self._compare(identity, password, bcrypt_hash))
        self._checks[identity] = client, task
        return task

    async def _compare(self, identity: Digest, password: bytes, bcrypt_hash: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            right = await loop.run_in_executor(self._bcrypt, self._check, password[:MAX_PASSWORD_BYTES], bcrypt_hash)
        finally:
            del self._checks[identity]
        _cache(self._right if right else self._wrong, identity)
        return right

    def _decoy(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        return list(users.values())[int.from_bytes(self._digest(user)) % len(users)]

    def _digest(self, data: bytes) -> Digest:
        return hmac.digest(self._key, data, hashlib.sha256)


def _cache(cache: dict[Digest, None], identity: Digest) -> None:
    """Make an entry the newest one, and drop the oldest beyond MAX_CACHED."""
    cache.pop(identity, None)
    cache[identity] = None
    if len(cache) > MAX_CACHED:
        del cache[next(iter(cache))]
