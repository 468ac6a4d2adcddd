"""The file system of the states of a scenario, which can be full, and copies of states."""

import os
import resource
import shutil
from pathlib import Path

from tests.e2e.processes import mount, runs_as_root, unmount

SIZE = 256 * 1024 * 1024
"""Bytes of the file system."""


class Disk:
    """The folder of states. It is a small file system if this process may mount one, so that it can be full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._mounted = runs_as_root() and mount("-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder))
        self._limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.full = False

    def fill(self, *, by_limit: bool) -> None:
        """Let writes fail: without free blocks, or by the limit of file sizes."""
        self.full = True
        if by_limit or not self._mounted or not self._resize(self._used()):
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, self._limit[1]))

    def free(self) -> None:
        """Let writes succeed again."""
        if self.full:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._limit)
            if self._mounted:
                self._resize(SIZE)
        self.full = False

    def _used(self) -> int:
        usage = os.statvfs(self.folder)
        return (usage.f_blocks - usage.f_bfree) * usage.f_frsize

    def _resize(self, size: int) -> bool:
        return mount("-o", f"remount,size={max(size, 4096)}", str(self.folder))

    def close(self) -> None:
        self.free()
        if self._mounted:
            unmount(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def copy_files(state: Path, folder: Path) -> Path:
    """Copy a state with its journals to a new folder. Return the path of the copy."""
    folder.mkdir(parents=True)
    for suffix in ("", "-wal", "-shm"):
        part = state.with_name(state.name + suffix)
        if part.exists():
            shutil.copyfile(part, folder / part.name)
    return folder / state.name
