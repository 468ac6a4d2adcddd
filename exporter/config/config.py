"""Reads and validates a config file, and reports all its problems at once.

text ─► document (YAML, ${VAR}) ─► models (values, unknown keys) ─► checks between sections ─► Config
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Discriminator, Field, Tag, create_model
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from exporter.config.document import parse
from exporter.config.problems import ConfigError, ConfigProblem, suggestion, validated, validation_error
from exporter.config.secret import Secret
from exporter.config.section import Section, as_mapping
from exporter.config.source import SourceSettings
from exporter.config.values import (
    Buckets,
    Cron,
    DurationOrOff,
    Labels,
    MaxSeverity,
    OptionalUrl,
    PositiveCount,
    PositiveDuration,
    Regex,
    StatePath,
    Switch,
    Timezone,
)
from exporter.duration import UNITS, format_duration
from exporter.patterns import Pattern


class KnownNames(NamedTuple):
    """Names that a config may use. `sources`: classes of settings by `type`. `families`: metric families."""

    sources: Mapping[str, type[SourceSettings]]
    families: Collection[str]


ANY_TEXT = Pattern("(?s).*")  # including line breaks


class Match(Section):
    """Selects jobs. Each regular expression must match the whole value."""

    source: Regex = ANY_TEXT
    """Regular expression on the source's name."""
    project: Regex = ANY_TEXT
    """Regular expression on the project."""
    job_name: Regex = ANY_TEXT
    """Regular expression on the job's name."""

    def selects(self, source: str, project: str, job_name: str) -> bool:
        """Return whether a job is selected."""
        return self.source.fullmatch(source) and self.project.fullmatch(project) and self.job_name.fullmatch(job_name)


class Objective(Section):
    """Expectations of jobs."""

    match: Match = Match()
    """Jobs that the objective is for; all by default."""
    schedule: Cron | None = None
    """When a run is due: a cron expression of five fields (six with seconds first), @daily and similar, @every 1h."""
    timezone: Timezone | None = None
    """Time zone of the schedule; UTC by default."""
    every: PositiveDuration | None = None
    """Time between two starts, instead of a schedule."""
    freshness: PositiveDuration | None = None
    """Maximum age of the last success."""
    duration_budget: PositiveDuration | None = None
    """Maximum duration of a run."""
    run_buckets: Buckets | None = None
    """Buckets of the durations of these jobs' runs, in seconds, instead of `metrics.run_buckets`."""
    failures_to_page: PositiveCount = 3
    """Consecutive failures after which a job pages: the value of jobrun_job_failures_to_page."""
    page: MaxSeverity = "critical"
    """The highest severity of these jobs' alerts: a label of jobrun_job_info."""
    team: str = ""
    """The responsible team, instead of the source's team: a label of jobrun_job_info."""
    labels: Labels = Field(default={})
    """Additional labels of jobrun_job_info."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield an error for both schedule and interval, and for a time zone without a schedule."""
        if values.get("schedule") and values.get("every"):
            yield validation_error("give either schedule or every, not both", "every")
        if values.get("timezone") and "schedule" in values and not values["schedule"]:
            yield validation_error("needs a schedule", "timezone")
        elif values.get("timezone") and "TZ=" in str(values.get("schedule")):
            yield validation_error("give either timezone or TZ= in the schedule, not both", "timezone")


DATABASE_PASSWORDS = re.compile(r"://[^:@/]*:([^@/]*)@|[?&](?:ssl)?password=([^&]*)")
"""Finds passwords in a database's URL, even if the driver accepts it but `urlsplit` rejects it."""


class StateSettings(Section):
    """The database with all counted runs."""

    path: StatePath = "./jobrun-exporter.db"
    """The file, relative to the working directory."""
    url: Secret | None = None
    """A PostgreSQL database that any number of replicas share, instead of a file: postgresql://USER@HOST/DATABASE."""
    retention: PositiveDuration = 30 * UNITS["d"]
    """How long completed runs are kept."""

    def database(self) -> str | None:
        """Return the URL of the database; None for a file. Raises SecretError if `url_file` cannot be read."""
        return None if self.url is None else self.url.reveal()

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:
        """Yield an error for a file together with a database."""
        if values.get("url") is not None and values.get("path") not in (None, cls.model_fields["path"].default):
            yield validation_error("give either path or url, not both", "url")


class WebSettings(Section):
    """The pages."""

    external_url: OptionalUrl = ""
    """Address of this exporter's pages, as people open it; alerts link to it."""
    logs: bool = False
    """Whether a run's page fetches output of steps and error texts from the API, and shows them."""


class MetricsSettings(Section):
    """The metrics."""

    zero_first: DurationOrOff = 120.0
    """How long a new series shows 0 before its first value; 0s or off disables this."""
    startup_hold: DurationOrOff = 30.0
    """Maximum time for which a source's counters wait for a complete poll after a start; 0s or off disables this."""
    run_buckets: Buckets = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)
    """Buckets of the durations of runs, in seconds."""
    step_buckets: Buckets = (10, 60, 300, 900, 3600, 14400)
    """Buckets of the durations of steps, in seconds."""
    step_histograms: Annotated[Literal["auto", "on", "off"], Switch] = "auto"
    """Step histograms; auto: on while at most 2,000 steps are known."""
    max_series: PositiveCount = 100_000
    """Maximum number of series. Above it, new jobs are counted under __other__."""
    exclude: tuple[str, ...] = ()
    """Metric families that are not served. They are still counted, but not towards max_series."""
    job_expiry: PositiveDuration = 90 * UNITS["d"]
    """How long a job is kept without runs."""


class Config(Section):
    """The whole config."""

    sources: tuple[SourceSettings, ...]
    """The APIs to poll."""
    objectives: tuple[Objective, ...] = ()
    """Expectations of jobs. The first match applies."""
    state: StateSettings = StateSettings()
    """The database with all counted runs."""
    web: WebSettings = WebSettings()
    """The pages."""
    metrics: MetricsSettings = MetricsSettings()
    """The metrics."""

    def objective_for(self, source: str, project: str, job_name: str) -> Objective | None:
        """Return the first objective that matches a job."""
        return next((each for each in self.objectives if each.match.selects(source, project, job_name)), None)

    def label_names(self) -> tuple[str, ...]:
        """Return the names in `labels` of all objectives, sorted. Each series of jobrun_job_info has all of them."""
        return tuple(sorted({name for objective in self.objectives for name in objective.labels}))


def load(path: Path, environ: Mapping[str, str], known: KnownNames) -> Config:
    """Return the config in a file.

    Args:
        path: The file.
        environ: Environment variables for `${VAR}`.
        known: Names that the file may contain.

    Raises:
        ConfigError: The file has problems. The error lists all of them.
    """
    return loads(read_text(path), environ, known)


def read_text(path: Path) -> str:
    """Return the text of a config file. Raises ConfigError if it cannot be read or is not text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([ConfigProblem("", f"{path} cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([ConfigProblem("", f"{path} is not UTF-8 text")]) from None


def loads(text: str, environ: Mapping[str, str], known: KnownNames) -> Config:
    """Parse a config. `environ`, `known` and errors: as for `load`."""
    data, problems, empty_variables = parse(text, environ)
    sources = as_mapping(data).get("sources")
    types = {str(as_mapping(source).get("type")) for source in (sources if isinstance(sources, list) else ())}
    config = validated(_model(known, types), data, problems)
    problems += _cross_section_problems(data, known)
    if config is None or problems:
        hints = {path: f": the environment variable {name} is empty" for path, name in empty_variables.items()}
        raise ConfigError([ConfigProblem(path, text + hints.get(path, "")) for path, text in problems])
    return config


def _model(known: KnownNames, types: Collection[str]) -> type[Config]:
    """Return a model of the config that validates each source by its `type`. `types`: those in the file."""
    sources = known.sources

    def check_type(given: object) -> object:
        name = as_mapping(given).get("type")
        if not isinstance(name, str):
            raise validation_error(f"must have a type: one of {', '.join(sources)}", "type")
        if name not in sources:
            raise validation_error(f"unknown type; {suggestion(name.casefold(), sources)}", "type")
        return given

    names = [name for name in sources if name in types] or sources
    members = [Annotated[sources[name], Tag(f"<{name}>")] for name in names]
    union: Any = reduce(lambda left, right: left | right, members)
    tag_of = Discriminator(lambda given: f"<{as_mapping(given).get('type')}>")
    source: Any = Annotated[union, tag_of, BeforeValidator(check_type)]
    return create_model(
        "Config",
        __base__=Config,
        __doc__=Config.__doc__,
        sources=(tuple[source, ...], Field(description=Config.model_fields["sources"].description)),
    )


def _cross_section_problems(data: Any, known: KnownNames) -> Iterator[ConfigProblem]:  # noqa: ANN401  # parsed YAML
    """Yield contradictions between sections. Values that are invalid by themselves are ignored."""
    if not isinstance(data, dict) or not isinstance(sources := data.get("sources"), list):
        return
    if not sources:
        yield ConfigProblem("sources", "needs at least one source")
    types = [known.sources.get(str(as_mapping(given).get("type"))) for given in sources]
    values = [settings.valid_values(given) if settings else {} for settings, given in zip(types, sources, strict=True)]
    names = [each.get("name") for each in values]
    for index, name in enumerate(names):
        if name is not None and (first := names.index(name)) < index:
            yield ConfigProblem(f"sources[{index}].name", f"the same as sources[{first}].name")
    yield from _retention_too_short(StateSettings.valid_values(as_mapping(data.get("state"))), values)
    excluded = MetricsSettings.valid_values(as_mapping(data.get("metrics"))).get("exclude", ())
    for index, name in enumerate(excluded):
        if name not in known.families:
            cure = suggestion(name, known.families, "docs/metrics.md lists all")
            yield ConfigProblem(f"metrics.exclude[{index}]", f"unknown metric; {cure}")


def _retention_too_short(state: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]) -> Iterator[ConfigProblem]:
    required = [
        (max(values["lookback"], values["max_run_age"]) + values["overlap"], index)
        for index, values in enumerate(sources)
        if {"lookback", "max_run_age", "overlap"} <= values.keys()
    ]
    minimum, index = max(required, default=(0.0, 0))
    if state.get("retention", minimum) < minimum:
        reason = f"the longer of lookback and max_run_age of sources[{index}], plus its overlap"
        yield ConfigProblem("state.retention", f"must be at least {format_duration(minimum)}: {reason}")


def schema(known: KnownNames) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a config file, for editors."""
    model = _model(known, known.sources).model_json_schema()
    model["$defs"]["MetricsSettings"]["properties"]["exclude"]["items"]["enum"] = sorted(known.families)
    return {"$schema": GenerateJsonSchema.schema_dialect, **model}


def secrets(config: Config) -> list[Secret]:
    """Return all secrets in the config, including the passwords in its URLs."""
    found = [urlsplit(source.proxy_url).password for source in config.sources]
    for groups in DATABASE_PASSWORDS.findall(config.state.database() or ""):
        found += groups
    passwords = [password for password in found if password]
    return [*config.secrets(), *map(Secret, sorted({*passwords, *map(unquote, passwords)}))]
