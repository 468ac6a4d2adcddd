"""The active web config. It is loaded again when its file or a certificate changes. An invalid file is ignored."""

import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from exporter import logs
from exporter.config import ConfigError, ConfigProblem
from exporter.config.secret import Version, version_of
from exporter.web.config import PATHS, WebConfig, load_web
from exporter.web.tls import server_context

RETRY_INTERVAL = 5.0
"""Seconds between two attempts to load an invalid file. A missing certificate may appear later."""


class ActiveWebConfig(NamedTuple):
    """The active web config. `users`: bcrypt hashes by name; empty for no basic auth. `tls`: None for plain HTTP."""

    headers: Mapping[str, str]
    users: Mapping[bytes, bytes]
    tls: ssl.SSLContext | None


class WebFile:
    """A web config file. Thread-safe.

    Raises:
        ConfigError: The file is invalid.
    """

    def __init__(self, path: Path, monotonic: Callable[[], float]) -> None:
        self._path = path
        self._monotonic = monotonic
        self._log = structlog.get_logger()
        self._lock = threading.Lock()
        self._error = ""
        self._last_attempt = monotonic()
        self._versions = _versions([str(path)])
        self._apply(load_web(path))
        if self._active.users and self._active.tls is None:
            self._log.warning("basic auth without TLS: passwords cross the network in clear text")

    @property
    def tls(self) -> Callable[[], ssl.SSLContext] | None:
        """Return a function that returns the current TLS context; None for plain HTTP."""
        return None if self._active.tls is None else self._current_context

    def _current_context(self) -> ssl.SSLContext:
        context = self.current().tls
        assert context is not None, "a reload cannot disable HTTPS"  # noqa: S101  # see `_load`
        return context

    def current(self) -> ActiveWebConfig:
        """Return the active web config, after loading changed files. An error is logged once."""
        with self._lock:
            if self._is_due():
                try:
                    self._load()
                except ConfigError as error:
                    if str(error) != self._error:
                        self._log.error("web config refused; the old one stays active", error=str(error))
                    self._error = str(error)
            return self._active

    def reload(self) -> None:
        """Load the file again. If that raises ConfigError, the old web config stays active."""
        with self._lock:
            try:
                self._load()
            except ConfigError as error:
                self._error = str(error)
                raise

    def _is_due(self) -> bool:
        if self._error and self._monotonic() - self._last_attempt >= RETRY_INTERVAL:
            return True
        return _versions(self._versions) != self._versions

    def _load(self) -> None:
        self._last_attempt = self._monotonic()
        # Versions are read before contents. If a file changes in between, the next call loads it again.
        self._versions = _versions(self._versions)
        config = load_web(self._path)
        if (config.tls_server_config is None) != (self._active.tls is None):
            text = "HTTPS cannot be enabled or disabled by a reload; restart the exporter"
            raise ConfigError([ConfigProblem("tls_server_config", text)])
        self._apply(config)
        self._log.info("web config loaded", users=len(config.basic_auth_users))

    def _apply(self, config: WebConfig) -> None:
        tls, file = config.tls_server_config, str(self._path)
        certificates = [path for key in PATHS if tls and (path := getattr(tls, key))]
        versions = {**_versions(certificates), file: self._versions[file]}
        self._active, self._versions, self._error = _activate(config), versions, ""


def _activate(config: WebConfig) -> ActiveWebConfig:
    logs.mask(config.secrets())
    headers = config.http_server_config.headers.items()
    tls = config.tls_server_config
    return ActiveWebConfig(
        headers={name: value for name, value in headers if value},
        users={name.encode(): each.reveal().encode() for name, each in config.basic_auth_users.items()},
        tls=None if tls is None else server_context(tls),
    )


def _versions(paths: Iterable[str]) -> dict[str, Version | None]:
    return {path: version_of(Path(path)) for path in paths}
