"""Copies written files to a folder without overwriting files that a person changed."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from exporter.errors import JobrunError

MANIFEST = ".jobrun-exporter-assets"
"""List of the files written last, with digests, in the format of `sha256sum`. It shows which files were changed."""


class ChangedFilesError(JobrunError):
    """Changed files would be overwritten. Nothing was written."""


def place(staged: Path, folder: Path, *, force: bool) -> None:
    """Copy all files below one folder to another.

    Raises:
        ChangedFilesError: Existing files were changed, and `force` is not set.
        OSError: A file cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    names = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    changed = [] if force else _changed(staged, folder, names)
    if changed:
        raise ChangedFilesError(
            f"changed since they were written: {', '.join(changed)}. Nothing was written: move them away, "
            "or add --force to lose the changes"
        )
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(staged / name, folder / name)
    (folder / MANIFEST).write_text("".join(f"{_digest(folder / name)}  {name}\n" for name in names))


def _changed(staged: Path, folder: Path, names: Iterable[str]) -> list[str]:
    known = _manifest(folder)
    return [
        name
        for name in names
        if (there := folder / name).exists() and _digest(there) not in {_digest(staged / name), known.get(name)}
    ]


def _manifest(folder: Path) -> Mapping[str, str]:
    try:
        lines = (folder / MANIFEST).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
