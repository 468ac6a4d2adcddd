"""The files of a state: creates them, checks whether they were replaced, and explains why a path cannot be used."""

import contextlib
import os
import stat
from pathlib import Path

JOURNALS = ("-wal", "-shm")
"""Suffixes of SQLite's journal files."""


def open_private(path: Path) -> int:
    """Open a file for writing without changing it. A new file is readable by this user only."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def make_private(path: Path) -> None:
    """Create an empty file that is readable by this user only, unless it exists."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


class FileIdentities:
    """The identities of a state's files at the time it was opened."""

    def __init__(self, path: Path) -> None:
        self._path = path
        parts = (path, *(path.with_name(path.name + ending) for ending in JOURNALS))
        self._known = {part: identity for part in parts if (identity := _identity(part)) is not None}

    def changed(self) -> list[str]:
        """Return the names of files that were removed or replaced."""
        return [part.name for part, identity in self._known.items() if _identity(part) != identity]

    def is_replaced(self) -> bool:
        """Return whether another file replaced the state."""
        return _identity(self._path) not in {None, self._known.get(self._path)}


def _identity(path: Path) -> tuple[int, int] | None:
    """Return a file's device and inode; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def problem_of(path: Path) -> str:
    """Return why a path cannot be used for a state, and the cure; "" if it can be used. Changes nothing."""
    folder = path.parent
    try:
        file_type = stat.S_IFMT(path.stat().st_mode)
    except OSError:
        file_type = 0
    if file_type == stat.S_IFDIR:
        return f"is a folder; name a file in it, like {path / 'jobrun-exporter.db'}"
    if file_type not in {0, stat.S_IFREG}:
        return "is not a file"
    # `os.path.exists` never raises, even for a folder that this user may not read.
    nearest = next((each for each in (folder, *folder.parents) if os.path.exists(each)), folder)  # noqa: PTH110
    if not nearest.is_dir():
        return f"{nearest} is not a folder"
    if nearest != folder and _has_access(nearest, os.X_OK):
        return (
            f"the folder {folder} does not exist; make it, owned by the user that runs the exporter: mkdir -p {folder}"
        )
    if not _has_access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} cannot be written: {_reason(folder)}"
    is_writable = not file_type or _has_access(path, os.R_OK | os.W_OK)
    return "" if is_writable else f"{path} cannot be written: {_reason(path)}"


def _has_access(part: Path, needed: int) -> bool:
    return os.access(part, needed, effective_ids=os.access in os.supports_effective_ids)


def _reason(part: Path) -> str:
    try:
        if os.statvfs(part).f_flag & os.ST_RDONLY:
            return "its disk is read-only"
        status = part.stat()
    except OSError as error:
        return error.strerror or "unknown"
    mode = stat.filemode(status.st_mode)
    return f"it belongs to user {status.st_uid} ({mode}), and this process runs as user {os.geteuid()}"
