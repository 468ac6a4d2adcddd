"""Secrets of the config, given as text or as the path of a file. They are never shown."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from exporter.config.problems import validation_error
from exporter.errors import AuthError

MASK = "**********"
"""Shown instead of a secret."""

MAX_SIZE = 64 * 1024
"""Maximum bytes of a secret's file."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Version = tuple[int, int, int]
"""Modification time in nanoseconds, size and inode of a file. A file is read again when one of them changes."""


class SecretError(AuthError):
    """The file of a secret cannot be used. The message has its path, never its content."""


class Secret:
    """A secret, given as text or as a file. Only `reveal` returns it; `str` and `repr` do not."""

    __slots__ = ("_text", "_version", "file")

    def __init__(self, text: str = "", *, file: Path | None = None) -> None:
        self._text = text.removeprefix("\ufeff").rstrip("\r\n")
        self.file = file
        self._version: Version | None = None

    def reveal(self) -> str:
        """Return the secret, without line breaks at its end. A changed file is read again.

        Raises:
            SecretError: The file is not regular, cannot be read, is too large or empty, or has control characters.
        """
        if self.file is not None:
            self._refresh(self.file)
        return self._text

    def _refresh(self, file: Path) -> None:
        try:
            if (version := version_of(file)) is not None and version == self._version:
                return
            with open_regular(file) as opened:
                content = opened.read(MAX_SIZE + 1)
            if len(content) > MAX_SIZE:
                raise SecretError(f"the secret's file {file} is larger than {MAX_SIZE} bytes")
            text = content.decode("utf-8-sig").rstrip("\r\n")
        except OSError as error:
            raise SecretError(f"the secret's file {file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:  # the exception's text contains bytes of the secret
            raise SecretError(f"the secret's file {file} is not UTF-8 text") from None
        if reason := _text_problem(text):
            raise SecretError(f"the secret's file {file} {reason}")
        # The version is set last. Otherwise another thread could see the new version and return the old text.
        self._text = text
        self._version = version

    def __repr__(self) -> str:
        return f"Secret({MASK!r})" if self.file is None else f"Secret(file={str(self.file)!r})"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        """Return whether both are given as the same text or the same file."""
        return isinstance(other, Secret) and self._given == other._given

    def __hash__(self) -> int:
        return hash(self._given)

    @property
    def _given(self) -> tuple[Path | None, str]:
        return (self.file, "" if self.file else self._text)

    @classmethod
    def validate(cls, value: object) -> Self:
        """Return the secret that a config gives as text."""
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise validation_error("must be text; put it in quotes")
        secret = cls(value)
        if reason := _text_problem(secret._text):
            raise validation_error(reason)
        return secret

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: object, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "minLength": 1, "writeOnly": True}


def open_regular(file: Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading. Raises OSError, also for any other kind of file."""
    # A named pipe blocks until somebody writes to it, and a device such as /dev/zero has no end. With these flags,
    # opening does not block, so that the kind of the file can be checked first.
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def version_of(file: Path) -> Version | None:
    """Return the version of a file; None if it cannot be read."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _text_problem(text: str) -> str:
    """Return why a text cannot be a secret; "" if it can."""
    # Line breaks are refused: HTTP libraries would raise an error that contains the header, and so the secret.
    if not text:
        return "is empty"
    return "has line breaks or control characters within" if _CONTROL.search(text) else ""
