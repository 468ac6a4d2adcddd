"""Checks passwords against bcrypt hashes. That is slow by design, so results are remembered and queues are bounded."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

REMEMBERED = 100
"""Maximum number of remembered correct passwords, and of wrong ones."""

MAX_CHECKS = 32
"""Maximum number of waiting checks."""

MAX_CHECKS_PER_CLIENT = 4

SIGNIFICANT = 72
"""Number of bytes of a password that bcrypt uses."""

Digest = bytes


class Credentials(NamedTuple):
    """User and password as a client sends them."""

    user: bytes
    password: bytes


class TooManyChecksError(Exception):
    """Too many checks are waiting."""


class Passwords:
    """Checks passwords with a function such as bcrypt's, and remembers the results."""

    def __init__(self, key: bytes, check: Callable[[bytes, bytes], bool]) -> None:
        # results are found by a hash with this key of user, bcrypt hash and password: no password stays in memory
        self._key = key
        self._check = check
        # two memories, so that guesses cannot push out passwords in use
        self._right: dict[Digest, None] = {}
        self._wrong: dict[Digest, None] = {}
        self._checks: dict[Digest, tuple[str, asyncio.Task[bool]]] = {}
        self._bcrypt = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")

    async def accepts(self, claimed: Credentials, users: Mapping[bytes, bytes], client: str) -> bool:
        """Return whether this is a user's password. Must be called by one event loop only.

        Raises:
            TooManyChecksError: It is not known yet, and too many checks are waiting, in all or of this client.
        """
        known = users.get(claimed.user)
        # an unknown user is checked against somebody's hash, always the same: it takes as long as for a known one
        against = self._decoy(claimed.user, users) if known is None else known
        parts = (claimed.user, against, claimed.password)
        identity = self._digest(b"".join(len(part).to_bytes(8) + part for part in parts))
        for memory in (self._right, self._wrong):
            if identity in memory:
                _remember(memory, identity)
                return memory is self._right and known is not None
        # shielded: others may wait for the same result
        return await asyncio.shield(self._begin(identity, claimed.password, against, client)) and known is not None

    def _begin(self, identity: Digest, password: bytes, against: bytes, client: str) -> asyncio.Task[bool]:
        if identity in self._checks:
            return self._checks[identity][1]
        of_client = sum(waiting == client for waiting, _ in self._checks.values())
        if len(self._checks) >= MAX_CHECKS or of_client >= MAX_CHECKS_PER_CLIENT:
            raise TooManyChecksError
        task = asyncio.create_task(self._compare(identity, password, against))
        self._checks[identity] = client, task
        return task

    async def _compare(self, identity: Digest, password: bytes, against: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            right = await loop.run_in_executor(self._bcrypt, self._check, password[:SIGNIFICANT], against)
        finally:
            del self._checks[identity]
        _remember(self._right if right else self._wrong, identity)
        return right

    def _decoy(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        return list(users.values())[int.from_bytes(self._digest(user)) % len(users)]

    def _digest(self, data: bytes) -> Digest:
        return hmac.digest(self._key, data, hashlib.sha256)


def _remember(memory: dict[Digest, None], identity: Digest) -> None:
    """Make an entry the newest one, and drop the oldest beyond REMEMBERED."""
    memory.pop(identity, None)
    memory[identity] = None
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
