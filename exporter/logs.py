"""Logging: one line per event on stderr, as logfmt or JSON, never with a secret.

The exporter logs with `structlog.get_logger()`. Warnings and errors of libraries, which use `logging`, get the same
format, and are limited to one line per kind and minute. Messages of exceptions are logged only if the exporter raised
them, because others may contain bodies, addresses and headers.
"""

import contextlib
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from io import StringIO
from typing import Literal, NamedTuple, TextIO
from urllib.parse import quote, quote_plus

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from exporter.config import ConfigError
from exporter.config.secret import MASK, Secret, SecretError
from exporter.errors import JobrunError

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["logfmt", "json"]


class LogOptions(NamedTuple):
    """Options of the log."""

    level: Level = "info"
    format: Format = "logfmt"


class Redactor:
    """Masks known secrets in events, in case one is logged by mistake."""

    def __init__(self) -> None:
        self._secrets: frozenset[Secret] = frozenset()
        self._values: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None
        self._lock = threading.Lock()

    def add(self, secrets: Iterable[Secret]) -> None:
        """Add secrets. Earlier values stay masked, because they may still be valid."""
        with self._lock:
            self._secrets |= frozenset(secrets)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Return the event with secrets masked, as a processor of structlog."""
        self._refresh()
        return {self.masked(key): self._masked_value(value) for key, value in event.items()}

    def masked(self, text: str) -> str:
        """Return a text with secrets masked."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def _masked_value(self, value: object) -> object:
        if isinstance(value, bool | int | float | None):
            return value
        if isinstance(value, list | tuple | set | frozenset):
            return [self._masked_value(item) for item in value]
        return self.masked(str(value))

    def _refresh(self) -> None:
        """Read the secrets again, because the files of some may have changed."""
        with self._lock:
            values = self._values | {value for secret in self._secrets for value in _value(secret)}
            if values != self._values:
                spellings = {spelling for value in values for spelling in _spellings(value)}
                longest_first = sorted(spellings, key=len, reverse=True)
                self._pattern = re.compile("|".join(map(re.escape, longest_first)))
                self._values = values


def _value(secret: Secret) -> tuple[str, ...]:
    try:
        value = secret.reveal()
    except SecretError:  # reported when the secret is needed
        return ()
    return (value,) if value else ()


def _spellings(value: str) -> set[str]:
    """Return a secret as it appears in a text, a URL, a form, JSON and a `repr`."""
    return {value, quote(value), quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1], repr(value)[1:-1]}


def describe(error: BaseException) -> str:
    """Return the class of an exception, and its message if it is one of our own, whose messages are safe to log."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, JobrunError | ConfigError) else name


def describe_exceptions(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Describe the exceptions in an event. `exc_info` becomes `error` and `at`, the places of the traceback."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = error
        event["at"] = _traceback(error)
    return {key: _safe(value) for key, value in event.items()}


def _traceback(error: BaseException) -> str:
    """Return the last three places of a traceback, outermost first, without the source code."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames)


_LOGFMT = structlog.processors.LogfmtRenderer(bool_as_flag=False)
_KEY = re.compile(r"[^A-Za-z0-9_.-]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def as_logfmt(logger: WrappedLogger, method: str, event: EventDict) -> str:
    """Return an event as one line of logfmt."""
    # structlog escapes only quotes and line feeds. With other control characters, a name could look like another line.
    return _LOGFMT(logger, method, {_KEY.sub("_", key): _printable(value) for key, value in event.items()})


def _printable(value: object) -> object:
    if isinstance(value, bool | None):
        return value
    text = value if isinstance(value, str) else json.dumps(value)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


RENDERERS: Mapping[Format, structlog.typing.Processor] = {
    "logfmt": as_logfmt,
    "json": structlog.processors.JSONRenderer(ensure_ascii=False, separators=(",", ":")),
}


class _LossyStream(StringIO):
    """A stream that discards text if its reader has gone or its disk is full."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, or discard it."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()
        return len(text)


class _StructlogHandler(logging.Handler):
    """Logs the records of `logging` with structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record."""
        info = record.exc_info[1] if record.exc_info else None
        logger = structlog.get_logger()
        try:
            logger.log(min(record.levelno, logging.ERROR), _message(record), logger=record.name, exc_info=info)
        except ValueError:  # the stream is closed
            self.handleError(record)


PERIOD = 60.0
"""Seconds in which only the first line of a kind is written."""

MAX_KINDS = 1000
"""Maximum number of known kinds. Otherwise messages that always differ would fill the memory."""

_VARIABLE_PART = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"|<.*", re.IGNORECASE | re.DOTALL)
"""Parts that may differ between messages of one kind: numbers, addresses, quoted texts, objects."""


class Period(msgspec.Struct):
    """A period after a line of one kind. `message`: of this line. `suppressed`: number of further, unwritten lines."""

    logger: str
    message: str
    start: float
    suppressed: int = 0


class Throttle:
    """Decides which log lines are written. Thread-safe. `clock`: returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._periods: dict[tuple[str, str], Period] = {}
        self._lock = threading.Lock()

    def admits(self, logger: str, message: str) -> bool:
        """Return whether to write a line. If not, count it."""
        kind = (logger, _VARIABLE_PART.sub("_", message)[:200])
        with self._lock:
            period = self._periods.get(kind)
            if period is not None:
                period.suppressed += 1
                return False
            while len(self._periods) >= MAX_KINDS:
                del self._periods[next(iter(self._periods))]
            self._periods[kind] = Period(logger, message, self._clock())
            return True

    def end_periods(self) -> list[Period]:
        """Return the periods that have ended and in which lines were suppressed. The caller logs a summary of each."""
        with self._lock:
            now = self._clock()
            ended = {kind: each for kind, each in self._periods.items() if not 0 <= now - each.start < PERIOD}
            for kind, period in ended.items():
                del self._periods[kind]
                if period.suppressed:  # the summary is the first line of the next period
                    self._periods[kind] = Period(period.logger, period.message, now)
            return [period for period in ended.values() if period.suppressed]


def limit(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop repeated events that have a key `logger`. Libraries and web clients can cause any number of them."""
    # Events with a key `more` are those of `report_suppressed`.
    if "logger" in event and "more" not in event:
        report_suppressed()
        if not _throttle.admits(str(event["logger"]), str(event.get("event", ""))):
            raise structlog.DropEvent
    return event


def report_suppressed() -> None:
    """Log how many events were dropped in the minutes that have ended. Call it regularly."""
    for period in _throttle.end_periods():
        more = f"and {period.suppressed} more in the last minute"
        structlog.get_logger().warning(period.message, logger=period.logger, more=more)


_throttle = Throttle(time.monotonic)  # global, as logging is


def _message(record: logging.LogRecord) -> str:
    """Return a record's message with its arguments, if they match its format."""
    message = str(_safe(record.msg))
    try:
        if isinstance(record.args, Mapping):
            return message % {key: _safe(value) for key, value in record.args.items()}
        return message % tuple(map(_safe, record.args)) if record.args else message
    except (TypeError, ValueError, KeyError):
        return message


def _safe(value: object) -> object:
    return describe(value) if isinstance(value, BaseException) else value


_REDACTOR = Redactor()  # global, as logging is

mask = _REDACTOR.add
"""Masks secrets in everything that is logged from now on."""


def configure(options: LogOptions, stream: TextIO, clock: Callable[[], float] = time.time) -> None:
    """Set up logging for this process. It may be called again.

    Args:
        options: Minimum level, and format.
        stream: Receives the lines; stderr except in tests.
        clock: Returns Unix seconds.
    """
    global _throttle  # noqa: PLW0603  # logging is global
    _throttle = Throttle(clock)
    level = logging.getLevelNamesMapping()[options.level.upper()]

    def stamped(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        timestamp = datetime.fromtimestamp(clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message = event.pop("event", "")
        return {"ts": timestamp, "level": method, "msg": message, **event}

    structlog.configure(
        processors=[limit, stamped, describe_exceptions, _REDACTOR, RENDERERS[options.format]],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(_LossyStream(stream)),
        cache_logger_on_first_use=False,
    )
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # it warns of skipped polls, which we log ourselves
    logging.basicConfig(handlers=[_StructlogHandler()], level=max(level, logging.WARNING), force=True)
