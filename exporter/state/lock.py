"""The lock on a state. The operating system releases it when the process ends."""

import errno
import fcntl
import os
import struct
from pathlib import Path

from exporter.errors import StateError
from exporter.state.files import open_private

_ANY_BYTE = 1 << 40
"""Offset of a byte that SQLite never locks. The file may be shorter."""

_FILE_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
"""The command for a lock that belongs to an open file; Linux has it. A lock of the process would end as soon as SQLite
closes any connection to the file."""


class RefusedStateError(StateError):
    """The state must not be used, and waiting does not help."""


class LockedStateError(RefusedStateError):
    """Another process uses the state."""


class Lock:
    """The exclusive right to write a state: a lock on its file, which is created if it does not exist.

    Raises LockedStateError if another process has the lock, StateError if the file cannot be locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self.renew()

    def renew(self) -> None:
        """Lock the file at the path, which may be a new one. Raises like the constructor."""
        self.release()
        try:
            self._descriptor = open_private(self._path)
            _lock(self._descriptor)
        except OSError as error:
            self.release()
            raise lock_error(self._path, error) from error
        if not self.is_in_place():
            self.release()
            raise StateError(f"{self._path}: was replaced while it was locked")

    def is_in_place(self) -> bool:
        """Return whether the file at the path is the locked one."""
        try:
            return self._descriptor is not None and os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> None:
    if _FILE_LOCK is not None:
        request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _ANY_BYTE, 1, 0)
        try:
            fcntl.fcntl(descriptor, _FILE_LOCK, request)
        except BlockingIOError:
            raise
        except OSError:
            pass  # the file system has no such locks
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_error(path: Path, error: OSError) -> StateError:
    """Return the error for a failed attempt to lock."""
    if error.errno in {errno.EWOULDBLOCK, errno.EAGAIN}:
        return LockedStateError(
            f"{path}: another jobrun-exporter uses this state; stop it or give this one its own state.path"
        )
    cure = ""
    if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}:
        cure = "; its disk cannot lock files: put state.path on a local disk"
    return StateError(f"{path}: cannot be locked: {error.strerror}{cure}")
