"""Checks passwords against bcrypt hashes: slow by design, so each only once, one at a time, and not for everybody."""

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

REMEMBERED = 100
"""How many passwords that were right are remembered, and how many that were wrong."""

WAITING = 32
"""How many checks may wait at once."""

WAITING_PER_CLIENT = 4
"""How many of them may be one client's."""

SIGNIFICANT = 72
"""bcrypt looks at no more bytes of a password."""


class Credentials(NamedTuple):
    """What a client claims."""

    user: bytes
    password: bytes


class BusyError(Exception):
    """Too many checks are waiting."""


class _Memory:
    """The results last used, at most so many."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, key: bytes) -> bool:
        if key in self._keys:
            self._keys.move_to_end(key)
            return True
        return False

    def add(self, key: bytes) -> None:
        self._keys[key] = None
        if len(self._keys) > self._size:
            self._keys.popitem(last=False)


class Passwords:
    """Knows passwords again that it checked before.

    It keeps no password: results are found by a keyed hash of user, bcrypt hash and password, the key of which never
    leaves the process. Right and wrong ones have a memory each, so that guesses cannot push out those in use.

    Args:
        key: At least 32 random bytes.
        check: bcrypt's comparison of a password and a hash.
    """

    def __init__(self, key: bytes, check: Callable[[bytes, bytes], bool]) -> None:
        self._key = key
        self._check = check
        self._right, self._wrong = _Memory(REMEMBERED), _Memory(REMEMBERED)
        self._waiting: dict[bytes, tuple[str, asyncio.Task[bool]]] = {}
        self._bcrypt = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt")

    async def accepts(self, claimed: Credentials, users: Mapping[bytes, bytes], client: str) -> bool:
        """Whether this is a user's password. To be called by one event loop only.

        Raises:
            BusyError: It is not known yet, and too many checks are waiting, of all or of this client.
        """
        known = users.get(claimed.user)
        against = self._anybodys(claimed.user, users) if known is None else known
        identity = self._identity(claimed.user, against, claimed.password)
        if identity in self._right:
            return known is not None
        if identity in self._wrong:
            return False
        # shielded: others may wait for the same result
        return await asyncio.shield(self._checking(identity, claimed.password, against, client)) and known is not None

    def _checking(self, identity: bytes, password: bytes, against: bytes, client: str) -> asyncio.Task[bool]:
        if identity in self._waiting:
            return self._waiting[identity][1]
        of_client = sum(waiting == client for waiting, _ in self._waiting.values())
        if len(self._waiting) >= WAITING or of_client >= WAITING_PER_CLIENT:
            raise BusyError
        task = asyncio.create_task(self._checked(identity, password, against))
        self._waiting[identity] = client, task
        return task

    async def _checked(self, identity: bytes, password: bytes, against: bytes) -> bool:
        loop = asyncio.get_running_loop()
        try:
            right = await loop.run_in_executor(self._bcrypt, self._check, password[:SIGNIFICANT], against)
        finally:
            del self._waiting[identity]
        (self._right if right else self._wrong).add(identity)
        return right

    def _anybodys(self, user: bytes, users: Mapping[bytes, bytes]) -> bytes:
        """A hash to check an unknown user against, always the same: it takes as long as a known user's."""
        chosen = int.from_bytes(self._digest(user)) % len(users)
        return list(users.values())[chosen]

    def _identity(self, *parts: bytes) -> bytes:
        return self._digest(b"".join(len(part).to_bytes(8) + part for part in parts))

    def _digest(self, data: bytes) -> bytes:
        return hmac.digest(self._key, data, hashlib.sha256)
