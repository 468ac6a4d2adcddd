"""Types of config values. Each has its validator, its error message and its JSON schema."""

import ipaddress
import itertools
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from exporter.config.problems import validation_error
from exporter.config.secret import open_regular
from exporter.cron import parse_schedule, zone_of
from exporter.duration import format_duration, parse_duration
from exporter.patterns import Pattern
from exporter.times import from_iso


def _duration(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value != 0:
            raise ValueError("a duration needs a unit; write it like 90s, 1h30m, 7d or PT1H")
        return 0.0
    return parse_duration(str(value))


def requires(is_valid: Callable[[Any], object], message: str) -> AfterValidator:
    """Return a validator that raises ValueError with a message if `is_valid` returns something false."""

    def check(value: object) -> object:
        if not is_valid(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


Duration = Annotated[
    float,
    PlainValidator(_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "examples": ["90s", "1h30m", "7d", "PT1H"]}),
]
"""Seconds, not negative."""

PositiveDuration = Annotated[Duration, requires(lambda seconds: seconds > 0, "must be longer than 0s")]
"""Seconds, more than 0."""


def is_off(value: object) -> bool:
    """Return whether a value is `off`. Unquoted, YAML parses it as false."""
    return value is False or value == "off"


DurationOrOff = Annotated[
    Duration,
    BeforeValidator(lambda value: 0.0 if is_off(value) else value),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"const": False}], "examples": ["90s", "off"]}),
]
"""Seconds; 0 for `off`."""


def _regex(value: object) -> Pattern:
    if isinstance(value, Pattern):
        return value
    if not isinstance(value, str):
        raise validation_error("must be text; put it in quotes")
    return Pattern(value)


Regex = Annotated[
    Pattern,
    PlainValidator(_regex),
    WithJsonSchema({"type": "string", "format": "regex"}),
]
"""A regular expression that must match the whole value."""


def _increase(bounds: tuple[float, ...]) -> bool:
    return all(earlier < later for earlier, later in itertools.pairwise((0.0, *bounds)))


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise validation_error("must be a number")
    return value


Number = Annotated[float, BeforeValidator(_not_boolean), Field(allow_inf_nan=False)]
"""A finite number. Booleans are refused, because pydantic would convert true to 1."""

Buckets = Annotated[
    tuple[Number, ...],
    requires(bool, "needs at least one bound"),
    requires(_increase, "must be positive and strictly increasing"),
]
"""Upper bounds of a histogram's buckets, in seconds, without +Inf."""

Positive = Annotated[Number, Field(gt=0)]
"""A number above 0."""

PositiveCount = Annotated[int, BeforeValidator(_not_boolean), Field(ge=1, le=10**9)]
"""A whole number from 1 to 1,000,000,000."""


def is_loopback(url: str) -> bool:
    """Return whether a URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        has_port = url.port is None or url.port > 0
    except ValueError:
        raise ValueError("is not a URL") from None
    is_http = url.scheme in {"http", "https"} and url.hostname and has_port
    if not is_http or re.search(r"[\s\x00-\x1f\x7f\\]", text):
        raise ValueError("must be a URL like https://host or https://host:8443/prefix")
    return url


def _refuse_credentials(url: SplitResult) -> None:
    if "@" in url.netloc:
        raise ValueError("must not contain a user or a password")


def _base_url(text: str) -> str:
    # URLs are compared as texts, so equal ones get the same spelling.
    url = _split(text)
    _refuse_credentials(url)
    if "?" in text or "#" in text:
        raise ValueError("must not have a query or a fragment")
    return f"{url.scheme}://{url.netloc.lower()}{url.path.rstrip('/')}"


BaseUrl = Annotated[str, AfterValidator(_base_url), Field(json_schema_extra={"format": "uri"})]
"""Scheme, host, optional port and prefix."""


def _or_empty(validate: Callable[[str], str]) -> AfterValidator:
    """Return a validator that also accepts ""."""
    return AfterValidator(lambda text: validate(text) if text else text)


OptionalUrl = Annotated[str, _or_empty(_base_url)]
"""A `BaseUrl`, or ""."""


def _proxy_url(text: str) -> str:
    credential = text.partition("://")[2].rpartition("@")[0]
    for mark in "#?/":
        if mark in credential:
            raise ValueError(f"has a {mark} in its user or password: write it as %{ord(mark):02X}")
    if _split(text).path.rstrip("/"):
        raise ValueError("must not have a path")
    return text


ProxyUrl = Annotated[str, _or_empty(_proxy_url)]
"""The URL of an HTTP proxy, with or without user and password, or ""."""


RUN_URL_FIELDS = ("run_id", "job_id", "job_name", "project", "source")
"""Names that `run_url` may contain in braces."""


def _run_url(text: str) -> str:
    try:
        used = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
        url = text.format_map(dict.fromkeys(RUN_URL_FIELDS, "x")) if used <= set(RUN_URL_FIELDS) else None
    except ValueError:
        url = None
    if url is None:
        raise ValueError(f"may contain {', '.join(f'{{{name}}}' for name in RUN_URL_FIELDS)} and no other braces")
    _refuse_credentials(_split(url))  # pages and a label show the URL
    return text


RunUrl = Annotated[str, _or_empty(_run_url)]
"""An http(s) URL with names in braces, or ""."""


def _readable(text: str) -> str:
    try:
        with open_regular(Path(text)):
            return text
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from None


ReadableFile = Annotated[str, _or_empty(_readable)]
"""The path of a readable file, or ""."""

RequiredFile = Annotated[str, Field(min_length=1), AfterValidator(_readable)]
"""The path of a readable file."""


def _parsed_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator that keeps a text, but refuses it if `parse` raises ValueError."""

    def validate(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(validate)


Cron = Annotated[str, _parsed_by(parse_schedule)]
"""A cron expression, or one of the dialects that `exporter.cron` parses."""

Timezone = Annotated[str, _parsed_by(zone_of)]
"""The name of a time zone in the IANA database."""

SWITCHES = {"on": True, "off": False}
"""What YAML makes of these words if they are not quoted."""

Switch = BeforeValidator(lambda value: ("on" if value else "off") if isinstance(value, bool) else value)
"""Converts YAML's true and false back to `on` and `off`."""


MAX_NAME_LENGTH = 100
"""Maximum number of characters. Each series and link contains the name."""

Name = Annotated[
    str,
    requires(
        lambda text: text and text == text.strip() and not re.search(r"[/\x00-\x1f\x7f]", text),
        "must not be empty, contain a slash or line break, or begin or end with a space",
    ),
    requires(lambda text: len(text) <= MAX_NAME_LENGTH, f"must not have more than {MAX_NAME_LENGTH} characters"),
]
"""A name that can be a label value and a segment of a URL's path."""


def _date(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        return from_iso(str(value).strip())  # YAML parses unquoted dates and times to objects
    except ValueError:
        raise ValueError("must be a date like 2026-12-28, or a time like 2026-12-28T09:00:00Z") from None


Date = Annotated[
    float,
    PlainValidator(_date),
    WithJsonSchema({"type": "string", "examples": ["2026-12-28", "2026-12-28T09:00:00Z"]}),
]
"""A time, or the start of a day in UTC, as Unix seconds; None for ""."""

MaxSeverity = Literal["critical", "warning", "none"]
"""The highest severity of a job's alerts: `critical` pages, `warning` needs attention today, `none` only informs."""

RESERVED_LABELS = frozenset(
    """
    source project job_name job_id schedule team page stop_cause url expectation result state status step_name
    error_type run_id run_url failed_step outcome objective provider api_url endpoint code reason disposition
    family version revision python_version replica job instance le quantile alertname alertstate severity
    """.split()  # noqa: SIM905  # a list would take a line per word
)
"""Labels that metrics, scrapes or alerts already have."""

SCRAPE_LABELS = frozenset({"env", "environment", "service", "stage", "type"})
"""Labels that scrape targets often have. Prometheus would rename or replace a metric's label of the same name."""


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for name in labels:
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
            raise validation_error(
                "is not a label name: use letters, digits and _, and begin with neither a digit nor __", name
            )
        if name in RESERVED_LABELS:
            raise validation_error("is already in use; choose another name", name)
        if name in SCRAPE_LABELS:
            raise validation_error(f"is often a label of scrape targets; choose another name, such as job_{name}", name)
    return labels


Labels = Annotated[dict[str, str], AfterValidator(_labels)]
"""Names and values of additional labels."""


StatePath = Annotated[
    str,
    Field(min_length=1),
    requires(
        lambda text: not text.startswith((":memory:", "file:")),
        "must be the path of a file: without one all counters are lost with the process",
    ),
    requires(lambda text: "\0" not in text, "must not contain a NUL character"),
]
"""The path of the state's file."""

Text = Annotated[
    str,
    Field(min_length=1),
    AfterValidator(lambda text: text.strip().removeprefix("\ufeff").strip()),
    requires(bool, "must not be empty"),
    requires(
        lambda text: not re.search(r"[\x00-\x1f\x7f]", text), "must not contain line breaks or control characters"
    ),
]
"""A text that is not empty, without white space at its ends."""
