"""The operating system's lock on a state. It always ends with the process."""

import errno
import fcntl
import os
import struct
from pathlib import Path

from exporter.errors import StateError
from exporter.state.files import open_private

_TRIES = 10
"""Maximum number of attempts to lock the lock file while other processes remove it."""

_ANY_BYTE = 1 << 40
"""Offset of a byte that SQLite never locks. The file may be shorter."""

_FILE_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)
"""The command for a lock that belongs to the open file; Linux has it. A lock that belongs to the process would end as
soon as SQLite closes any connection to the same file."""


class RefusedStateError(StateError):
    """The state must not be used, and waiting does not help."""


class LockedStateError(RefusedStateError):
    """Another process uses the state."""


class Lock:
    """The exclusive right to write a state: a lock on `PATH.lock` and on the state itself.

    The lock on the state keeps a second process out even if the lock file was removed. Raises LockedStateError if
    another process has the lock, StateError if the files cannot be locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.file = path.with_name(path.name + ".lock")
        self._held: list[int] = []
        self.renew()

    def renew(self) -> None:
        """Lock the files, also after they were replaced. Raises like the constructor."""
        self.release()
        try:
            self._lock_file()
            self._lock_state()
        except OSError as error:
            self.release()
            raise lock_error(self._path, error) from error

    def _lock_file(self) -> None:
        for _ in range(_TRIES):
            descriptor = open_private(self.file)
            self._held = [descriptor]
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.is_in_place():
                return
            self.release()  # the previous owner removed the file before this process locked it
        raise OSError(errno.EBUSY, f"{self.file.name} is removed again and again")

    def _lock_state(self) -> None:
        self._held.append(open_private(self._path))
        if _FILE_LOCK is None:
            return
        request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _ANY_BYTE, 1, 0)
        try:
            fcntl.fcntl(self._held[-1], _FILE_LOCK, request)
        except BlockingIOError:
            raise
        except OSError:  # the file system has no such locks; the lock file is enough
            return

    def is_in_place(self) -> bool:
        """Return whether the file at the lock file's path is the locked one."""
        try:
            return bool(self._held) and os.path.samestat(self.file.stat(), os.fstat(self._held[0]))
        except OSError:
            return False

    def release(self) -> None:
        """Release the state, and remove the lock file. A file with content is another program's, and stays."""
        if self.is_in_place() and not os.fstat(self._held[0]).st_size:
            self.file.unlink(missing_ok=True)
        while self._held:
            os.close(self._held.pop())


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
