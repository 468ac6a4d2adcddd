"""The config of a source that is common to all vendors."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

from exporter.config.problems import wrong
from exporter.config.section import Conflict, Section
from exporter.config.values import (
    BaseUrl,
    Date,
    Duration,
    Name,
    Page,
    Positive,
    PositiveDuration,
    ProxyUrl,
    ReadableFile,
    Regex,
    Switch,
    at_least,
    is_off,
    template,
)
from exporter.duration import UNITS, format_duration
from exporter.model import Result, State
from exporter.patterns import Pattern

DAY, HOUR, MINUTE = UNITS["d"], UNITS["h"], UNITS["m"]

RUN_URL_FIELDS = ("run_id", "job_id", "job_name", "project", "source")
"""Fields that `run_url` may have in braces."""

STATUS_WORDS: Mapping[str, Result | State] = {str(word): word for word in (*Result, *State)}
"""Results and states to which a vendor's status can be mapped."""


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
    """Which jobs to watch. The expressions must match the whole name of a job."""

    include: tuple[Regex, ...] = (Pattern(".*"),)
    """Regular expressions on job_name; one must match."""
    exclude: tuple[Regex, ...] = ()
    """Regular expressions on job_name; none may match."""


class Tls(Section):
    """Certificates for the connection to the API, PEM."""

    ca_file: ReadableFile = ""
    """CA certificates to trust instead of the system's."""
    cert_file: ReadableFile = ""
    """Client certificate, if the API requires one."""
    key_file: ReadableFile = ""
    """Key of the client certificate."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield conflicts for a certificate without its key, and for files without certificates."""
        if {"cert_file", "key_file"} <= values.keys() and bool(values["cert_file"]) != bool(values["key_file"]):
            lacking = "key_file" if values["cert_file"] else "cert_file"
            yield Conflict((lacking,), "is required: cert_file and key_file need each other")
            return
        context = ssl.create_default_context()
        authorities, own, key = (values.get(name) for name in ("ca_file", "cert_file", "key_file"))
        if authorities and not _loads(context.load_verify_locations, authorities):
            yield Conflict(("ca_file",), "has no certificates in PEM")
        if own and key and not _loads(context.load_cert_chain, own, key, ""):
            yield Conflict(("cert_file",), "and key_file must be a certificate and its unencrypted key, in PEM")


def _loads(load: Callable[..., None], *files: str) -> bool:
    try:
        load(*files)
    except (ssl.SSLError, OSError, ValueError):
        return False
    return True


def _mapped(word: object) -> Result | State:
    if not isinstance(word, str) or word not in STATUS_WORDS:
        raise wrong(f"must be one of {', '.join(STATUS_WORDS)}")
    return STATUS_WORDS[word]


def _folded(words: dict[str, Result | State]) -> dict[str, Result | State]:
    folded: dict[str, Result | State] = {}
    for word, meaning in words.items():
        if word.casefold() in folded:
            raise wrong("is given twice: letter case is ignored", word)
        folded[word.casefold()] = meaning
    return folded


StatusMap = Annotated[
    dict[str, Annotated[Result | State, PlainValidator(_mapped), WithJsonSchema({"enum": list(STATUS_WORDS)})]],
    AfterValidator(_folded),
]
"""Results and states by the vendor's statuses in lower case."""


class SourceSettings(Section):
    """One source.

    A vendor's class adds its own keys, narrows `type` to one word, and declares a key again to change its default. A
    vendor without sweeps does not declare `sweep` again.
    """

    api_path: ClassVar[str] = ""
    """Path that the source appends to `base_url`. A `base_url` that already ends with it is a problem."""

    name: Name
    """Value of the label `source`, unique. The state is stored under this name."""
    type: str
    """The vendor."""
    base_url: BaseUrl
    """Scheme, host, optional port and prefix of the API, without the API's own path."""
    poll_interval: Annotated[Duration, at_least(1.0)] = MINUTE
    """Time between two polls."""
    lookback: PositiveDuration = 7 * DAY
    """Maximum time that is read after downtime; never beyond what the API shows."""
    overlap: Duration = HOUR
    """Time before the watermark that each poll reads again."""
    settle: Duration = MINUTE
    """How long the API needs until all runs of a time are visible. The watermark stays this far behind."""
    sweep: SweepOrOff = None
    """Occasional polls of a longer window, for runs that the API shows late."""
    max_run_age: PositiveDuration = 7 * DAY
    """An active run older than this expires."""
    steps: Annotated[Literal["all", "failed", "off"], Switch] = "all"
    """Completed runs whose steps are fetched."""
    jobs: JobFilter = JobFilter()
    """Which jobs to watch."""
    status_map: StatusMap = Field(default={})
    """The result or state of each of the vendor's statuses."""
    run_url: Annotated[str, template(RUN_URL_FIELDS)] = ""
    """Link to a run's page at the vendor."""
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
    """The team of jobs whose objective has none."""
    page: Page = "critical"
    """The highest severity of alerts of its jobs."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield conflicts for durations longer than `lookback`, and for a URL that ends with the API's path."""
        yield from _beyond_lookback(values)
        if values.get("sweep") and cls.model_fields["sweep"].default is None:
            yield Conflict(("sweep",), "this type of source has no sweep")
        if cls.api_path and str(values.get("base_url", "")).endswith(cls.api_path):
            yield Conflict(("base_url",), f"must not end with the API's path {cls.api_path}: it is appended to it")

    def link(self, *, run_id: str, job_id: str = "", job_name: str = "", project: str = "") -> str:
        """Return the link to a run at the vendor; "" if unknown. Values are percent-encoded."""
        values = {"run_id": run_id, "job_id": job_id, "job_name": job_name, "project": project, "source": self.name}
        return self.run_url.format_map({key: quote(value, safe="") for key, value in values.items()})


def _beyond_lookback(values: Mapping[str, Any]) -> Iterator[Conflict]:
    sweep = values.get("sweep")
    lengths = {
        ("overlap",): values.get("overlap"),
        ("settle",): values.get("settle"),
        ("sweep", "window"): sweep.window if sweep else None,
    }
    lookback = values.get("lookback")
    for keys, length in lengths.items():
        if lookback is not None and length is not None and length > lookback:
            yield Conflict(keys, f"{format_duration(length)} is longer than lookback, {format_duration(lookback)}")
