"""The keys of a source that all vendors share."""

import math
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from exporter.config.problems import validation_error
from exporter.config.section import Section
from exporter.config.values import (
    BaseUrl,
    Date,
    Duration,
    MaxSeverity,
    Name,
    Positive,
    PositiveDuration,
    ProxyUrl,
    ReadableFile,
    Regex,
    RunUrl,
    Switch,
    is_off,
    requires,
)
from exporter.duration import UNITS, format_duration
from exporter.model import Result, State
from exporter.patterns import Pattern

DAY, HOUR, MINUTE = UNITS["d"], UNITS["h"], UNITS["m"]

MEANINGS: Mapping[str, Result | State] = {str(meaning): meaning for meaning in (*Result, *State)}
"""Results and states by name. `status_map` maps a vendor's status to one of them."""


class Sweep(Section):
    """Occasional polls of a longer window, for runs that the API shows late."""

    interval: PositiveDuration = HOUR
    """Time between two sweeps."""
    window: PositiveDuration = DAY
    """How far back a sweep reads."""


SweepOrOff = Annotated[
    Sweep | None,
    BeforeValidator(lambda value: None if is_off(value) else value),
    Field(json_schema_extra=lambda schema: schema["anyOf"].append({"enum": ["off", False]})),
]
"""None for `off`."""


class JobFilter(Section):
    """Which jobs to watch. A regular expression must match a job's whole name."""

    include: tuple[Regex, ...] = (Pattern(".*"),)
    """Regular expressions; job_name must match one of them."""
    exclude: tuple[Regex, ...] = ()
    """Regular expressions; job_name must match none of them."""


class Tls(Section):
    """Certificates for the connection to the API, PEM."""

    ca_file: ReadableFile = ""
    """CA certificates to trust instead of the system's."""
    cert_file: ReadableFile = ""
    """Client certificate, if the API requires one."""
    key_file: ReadableFile = ""
    """Key of the client certificate."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield an error for a certificate without its key, and for a file that has no certificate."""
        if {"cert_file", "key_file"} <= values.keys() and bool(values["cert_file"]) != bool(values["key_file"]):
            missing = "key_file" if values["cert_file"] else "cert_file"
            yield validation_error("is required: cert_file and key_file need each other", missing)
            return
        context = ssl.create_default_context()
        ca, certificate, key = (values.get(name) for name in ("ca_file", "cert_file", "key_file"))
        if ca and not _can_load(context.load_verify_locations, ca):
            yield validation_error("has no certificates in PEM", "ca_file")
        if certificate and key and not _can_load(context.load_cert_chain, certificate, key, ""):
            yield validation_error("must be a certificate in PEM, and key_file its unencrypted key in PEM", "cert_file")


def _can_load(load: Callable[..., None], *files: str) -> bool:
    try:
        load(*files)
    except (ssl.SSLError, OSError, ValueError):
        return False
    return True


def _meaning(name: object) -> Result | State:
    if not isinstance(name, str) or name not in MEANINGS:
        raise validation_error(f"must be one of {', '.join(MEANINGS)}")
    return MEANINGS[name]


def _in_lower_case(statuses: dict[str, Result | State]) -> dict[str, Result | State]:
    lower: dict[str, Result | State] = {}
    for status, meaning in statuses.items():
        if status.casefold() in lower:
            raise validation_error("is given twice: letter case is ignored", status)
        lower[status.casefold()] = meaning
    return lower


StatusMap = Annotated[
    dict[str, Annotated[Result | State, PlainValidator(_meaning), WithJsonSchema({"enum": list(MEANINGS)})]],
    AfterValidator(_in_lower_case),
]
"""The result or state of each of the vendor's statuses. The statuses are in lower case."""


class SourceSettings(Section):
    """One source.

    The class of a vendor adds its own keys, sets `type` to one literal, and redeclares a key to change its default. A
    vendor with sweeps redeclares `sweep`.
    """

    api_path: ClassVar[str] = ""
    """The API's path, appended to `base_url`. A `base_url` that already ends with it is refused."""

    name: Name
    """Value of the label `source`, unique. The state is stored under this name."""
    type: str
    """The vendor."""
    base_url: BaseUrl
    """Scheme, host, optional port and prefix of the API, without the API's own path."""
    poll_interval: Annotated[Duration, requires(lambda seconds: seconds >= 1, "must be at least 1s")] = MINUTE
    """Time between two polls."""
    lookback: PositiveDuration = 7 * DAY
    """How far back runs are read after downtime; less if the API shows less."""
    overlap: Duration = HOUR
    """Time before the watermark that each poll reads again."""
    settle: Duration = MINUTE
    """How long the API may take until it shows a completed run. The watermark stays this far behind the present."""
    sweep: SweepOrOff = None
    """Occasional polls of a longer window, for runs that the API shows late."""
    max_run_age: PositiveDuration = 7 * DAY
    """An active run older than this expires."""
    steps: Annotated[Literal["all", "failed", "off"], Switch] = "all"
    """Which completed runs' steps are fetched: all, those that failed, or none (off)."""
    jobs: JobFilter = JobFilter()
    """Which jobs to watch."""
    status_map: StatusMap = Field(default={})
    """The result or state of each of the vendor's statuses."""
    run_url: RunUrl = ""
    """Link to the vendor's page of a run."""
    timeout: PositiveDuration = 30.0
    """Timeout of one request."""
    requests_per_minute: Positive = 60.0
    """Request budget. Sources with the same credential share the smallest."""
    proxy_url: ProxyUrl = Field(default="", repr=False)
    """HTTP proxy for the requests."""
    tls: Tls = Tls()
    """Certificates for the connection."""
    credential_expires: Date | None = None
    """When the credential expires, if the vendor does not report it: a date, or a time with its zone."""
    team: str = ""
    """Team of its jobs, unless their objective names one."""
    page: MaxSeverity = "critical"
    """The highest severity of alerts of its jobs."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield an error for a duration longer than `lookback`, and for a URL that ends with the API's path."""
        lookback, sweep = values.get("lookback", math.inf), values.get("sweep")
        lengths = {"overlap": values.get("overlap", 0), "settle": values.get("settle", 0)}
        for path, length in (*lengths.items(), ("sweep.window", sweep.window if sweep else 0)):
            if length > lookback:
                text = f"{format_duration(length)} is longer than lookback, {format_duration(lookback)}"
                yield validation_error(text, *path.split("."))
        if sweep and cls.model_fields["sweep"].default is None:
            yield validation_error("this type of source has no sweep", "sweep")
        if cls.api_path and str(values.get("base_url", "")).endswith(cls.api_path):
            yield validation_error(
                f"must not end with the API's path {cls.api_path}: the exporter appends it", "base_url"
            )

    def link(self, *, run_id: str, job_id: str = "", job_name: str = "", project: str = "") -> str:
        """Return the link to a run at the vendor; "" if unknown. Values are percent-encoded."""
        values = {"run_id": run_id, "job_id": job_id, "job_name": job_name, "project": project, "source": self.name}
        return self.run_url.format_map({key: quote(value, safe="") for key, value in values.items()})
