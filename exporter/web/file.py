"""The web config file in force: read again when it or a certificate changes, and kept when the new one has faults."""

import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from exporter import logs
from exporter.config.problems import ConfigError, ConfigProblem
from exporter.config.secret import Version
from exporter.web.config import PATHS, WebConfig, load_web
from exporter.web.tls import NewestContext, server_context

AGAIN = 5.0
"""Seconds after which a refused file is tried again: what it lacked may be there by then."""


class InForce(NamedTuple):
    """What holds for requests and connections now.

    Attributes:
        headers: Of every answer; names in lower case.
        users: Names and bcrypt hashes; everybody may come in, if there are none.
        tls: How HTTPS is spoken; None for plain HTTP.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    users: Mapping[bytes, bytes]
    tls: ssl.SSLContext | None


class WebFile:
    """A web config file. Raises ConfigError at once if it cannot be used; later, faults leave in force what was.

    Safe to be asked by several threads.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._log = structlog.get_logger()
        self._lock = threading.Lock()
        self._versions: dict[str, Version | None] = {}
        self._fault = ""
        self._tried = monotonic()
        before = _version(path)
        config = load_web(path)
        self._versions = {**_versions(self._files(config)), str(path): before}
        self._in_force = _in_force(config)
        if self._in_force.users and self._in_force.tls is None:
            self._log.warning("basic auth without TLS: passwords can be read on the way")

    @property
    def tls(self) -> ssl.SSLContext | None:
        """A context that makes each connection as the file says at that moment; None for plain HTTP."""
        return None if self._in_force.tls is None else NewestContext.of(self._newest)

    def _newest(self) -> ssl.SSLContext:
        context = self.current().tls
        assert context is not None, "HTTPS is never switched off"  # noqa: S101  # `_take` holds it
        return context

    def current(self) -> InForce:
        """What holds now. Looks whether files changed; a new fault is logged once."""
        with self._lock:
            if self._worth_reading():
                try:
                    self._take()
                except ConfigError as error:
                    if str(error) != self._fault:
                        self._log.error("web config refused: the old one stays in force", problem=str(error))
                    self._fault = str(error)
            return self._in_force

    def reload(self) -> None:
        """Reads the file anew. Raises ConfigError with its faults; what was in force then stays so."""
        with self._lock:
            try:
                self._take()
            except ConfigError as error:
                self._fault = str(error)
                raise

    def _worth_reading(self) -> bool:
        if self._fault and self._monotonic() - self._tried >= AGAIN:
            return True
        return _versions(self._versions) != self._versions

    def _take(self) -> None:
        self._tried = self._monotonic()
        # versions before contents: what changes in between is read once more
        self._versions = _versions(self._versions)
        config = load_web(self._path)
        if (config.tls_server_config is None) != (self._in_force.tls is None):
            raise ConfigError(
                [ConfigProblem("tls_server_config", "HTTPS cannot come or go by a reload; restart the exporter")]
            )
        versions = {**_versions(self._files(config)), str(self._path): self._versions[str(self._path)]}
        self._in_force = _in_force(config)
        self._versions = versions
        self._fault = ""
        self._log.info("web config taken up", users=len(config.basic_auth_users))

    def _files(self, config: WebConfig) -> list[str]:
        """The files that the config was read from, or names."""
        tls = config.tls_server_config
        named = [getattr(tls, key) for key in PATHS] if tls else []
        return [str(self._path), *filter(None, named)]


def _in_force(config: WebConfig) -> InForce:
    logs.guard(config.secrets())
    headers = config.http_server_config.headers.items()
    tls = config.tls_server_config
    return InForce(
        headers=tuple((name.lower().encode(), value.encode()) for name, value in headers if value),
        users={name.encode(): each.reveal().encode() for name, each in config.basic_auth_users.items()},
        tls=None if tls is None else server_context(tls),
    )


def _versions(paths: Iterable[str]) -> dict[str, Version | None]:
    return {path: _version(Path(path)) for path in paths}


def _version(file: Path) -> Version | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
