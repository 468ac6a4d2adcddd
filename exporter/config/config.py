"""The config: reads and validates a file, and reports all its problems at once.

text ─► document (YAML, ${VAR}) ─► models (values, unknown keys) ─► checks between sections ─► Config
"""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import BeforeValidator, Discriminator, Field, Tag, create_model
from pydantic.json_schema import GenerateJsonSchema

from exporter.config.document import parse
from exporter.config.problems import ConfigError, ConfigProblem, validated, wrong
from exporter.config.secret import Secret
from exporter.config.section import Conflict, Section, given_keys
from exporter.config.source import SourceSettings
from exporter.config.values import (
    Buckets,
    Cron,
    DurationOrOff,
    Labels,
    OptionalUrl,
    Page,
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
    """Names that a config may use: source types, with their settings classes, and metric families."""

    sources: Mapping[str, type[SourceSettings]]
    families: Collection[str]


ANY = Pattern("(?s).*")


class Match(Section):
    """Selects jobs: each expression must match its whole value."""

    source: Regex = ANY
    """Regular expression on the source's name."""
    project: Regex = ANY
    """Regular expression on the project."""
    job_name: Regex = ANY
    """Regular expression on the job's name."""

    def fits(self, source: str, project: str, job_name: str) -> bool:
        """Return whether this job is selected."""
        pairs = ((self.source, source), (self.project, project), (self.job_name, job_name))
        return all(regex.fullmatch(text) for regex, text in pairs)


class Objective(Section):
    """Expectations of jobs."""

    match: Match = Match()
    """Which jobs; all by default."""
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
    """Buckets for these jobs' runs, instead of those in `metrics`."""
    failures_to_page: PositiveCount = 3
    """Consecutive failures before a page: jobrun_job_failures_to_page."""
    page: Page = "critical"
    """The highest severity of alerts of these jobs: a label of jobrun_job_info."""
    team: str = ""
    """The responsible team, instead of the source's team: a label of jobrun_job_info."""
    labels: Labels = Field(default={})
    """More labels of jobrun_job_info."""

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield a conflict for both a schedule and an interval, and for a time zone without a schedule."""
        if values.get("schedule") and values.get("every"):
            yield Conflict(("every",), "give either schedule or every, not both")
        if values.get("timezone") and "schedule" in values and not values["schedule"]:
            yield Conflict(("timezone",), "needs a schedule")
        elif values.get("timezone") and "TZ=" in str(values.get("schedule")):
            yield Conflict(("timezone",), "give either timezone or TZ= in the schedule, not both")


DEFAULT_STATE = "./jobrun-exporter.db"


class StateSettings(Section):
    """The database with all counted runs."""

    path: StatePath = DEFAULT_STATE
    """The file, relative to the working directory."""
    url: Secret | None = None
    """A PostgreSQL database that any number of replicas share, instead of a file: postgresql://USER@HOST/DATABASE."""
    retention: PositiveDuration = 30 * UNITS["d"]
    """How long completed runs are kept."""

    def database(self) -> str | None:
        """Return the URL of the database; None for a file. Raises SecretError if the secret's file cannot be read."""
        return None if self.url is None else self.url.reveal()

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[Conflict]:
        """Yield a conflict for both a file and a database."""
        if values.get("url") is not None and values.get("path", DEFAULT_STATE) != DEFAULT_STATE:
            yield Conflict(("url",), "give either path or url, not both")


class WebSettings(Section):
    """The pages."""

    external_url: OptionalUrl = ""
    """Address of this exporter for people, used in links of alerts."""
    logs: bool = False
    """Whether a run's page may show output of steps and error texts, which it then fetches from the API."""


class MetricsSettings(Section):
    """The metrics."""

    zero_first: DurationOrOff = 120.0
    """How long a new series shows 0 before its first value; 0s or off disables this."""
    startup_hold: DurationOrOff = 30.0
    """Maximum time after a start that a source's counters wait for its first complete poll; 0s or off disables this."""
    run_buckets: Buckets = (10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200)
    """Buckets of the durations of runs, in seconds."""
    step_buckets: Buckets = (10, 60, 300, 900, 3600, 14400)
    """Buckets of the durations of steps, in seconds."""
    step_histograms: Annotated[Literal["auto", "on", "off"], Switch] = "auto"
    """Step histograms; auto: on while at most 2,000 steps are known."""
    max_series: PositiveCount = 100_000
    """Maximum number of series. Above it, new jobs are counted under __other__."""
    exclude: tuple[str, ...] = ()
    """Names of metric families that are not served. They are still counted, and use no room of max_series."""
    job_expiry: PositiveDuration = 90 * UNITS["d"]
    """Jobs without runs for this long are removed."""


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
        return next((each for each in self.objectives if each.match.fits(source, project, job_name)), None)

    def label_names(self) -> tuple[str, ...]:
        """Return all names in `labels` of objectives, in order: each series of jobrun_job_info has them."""
        return tuple(sorted({name for objective in self.objectives for name in objective.labels}))


def load(path: Path, environ: Mapping[str, str], settings: KnownNames) -> Config:
    """Read a config file.

    Args:
        path: The file.
        environ: Environment variables for `${VAR}`.
        settings: Names that the file may use.

    Raises:
        ConfigError: The file has problems. The error lists all of them.
    """
    return loads(text_of(path), environ, settings)


def text_of(path: Path) -> str:
    """Return the text of a config file. Raises ConfigError if it cannot be read or is not text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([ConfigProblem("", f"{path} cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([ConfigProblem("", f"{path} is not UTF-8 text")]) from None


def loads(text: str, environ: Mapping[str, str], settings: KnownNames) -> Config:
    """Read a config from its text, as `load` does."""
    data, problems, emptied = parse(text, environ)
    config = validated(_model(settings), data, problems)
    problems += _across(data, settings)
    if config is None or problems:
        raise ConfigError([_with_variable(problem, emptied) for problem in problems])
    return config


def _with_variable(problem: ConfigProblem, emptied: Mapping[str, str]) -> ConfigProblem:
    if problem.path not in emptied:
        return problem
    return problem._replace(message=f"{problem.message}: the environment variable {emptied[problem.path]} is empty")


def _model(settings: KnownNames) -> type[Config]:
    sources = settings.sources

    def known(given: object) -> object:
        word = given_keys(given).get("type")
        if not isinstance(word, str):
            raise wrong(f"must have a type: one of {', '.join(sources)}", "type")
        if word not in sources:
            near = difflib.get_close_matches(word.casefold(), sources, n=1, cutoff=0.5)
            cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(sources)}"
            raise wrong(f"unknown type; {cure}", "type")
        return given

    tagged = [Annotated[kind, Tag(f"<{word}>")] for word, kind in sources.items()]
    union: Any = reduce(lambda left, right: left | right, tagged)
    choice = Discriminator(lambda given: f"<{given_keys(given).get('type')}>")
    kinds: Any = Annotated[union, choice, BeforeValidator(known)]
    return create_model(
        "Config",
        __base__=Config,
        __doc__=Config.__doc__,
        sources=(tuple[kinds, ...], Field(description=Config.model_fields["sources"].description)),
    )


def _across(data: Any, settings: KnownNames) -> Iterator[ConfigProblem]:  # noqa: ANN401  # as the file has it
    """Yield problems between sections. Only values that are valid themselves are checked."""
    if not isinstance(data, dict) or not isinstance(sources := data.get("sources"), list):
        return
    if not sources:
        yield ConfigProblem("sources", "needs at least one source")
    retention = StateSettings.sound_values(given_keys(data.get("state"))).get("retention")
    kinds = [settings.sources.get(str(given_keys(given).get("type"))) for given in sources]
    values = [kind.sound_values(given) if kind else {} for kind, given in zip(kinds, sources, strict=True)]
    yield from _names_given_twice([each.get("name") for each in values])
    if retention is not None:
        yield from _retention_too_short(retention, values)
    excluded = MetricsSettings.sound_values(given_keys(data.get("metrics"))).get("exclude", ())
    yield from _unknown_families(excluded, settings.families)


def _unknown_families(names: Sequence[str], known: Collection[str]) -> Iterator[ConfigProblem]:
    for index, name in enumerate(names):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {near[0]}?" if near else "docs/metrics.md lists all"
            yield ConfigProblem(f"metrics.exclude[{index}]", f"unknown metric; {cure}")


def _names_given_twice(names: Sequence[str | None]) -> Iterator[ConfigProblem]:
    for index, name in enumerate(names):
        if name is not None and (first := names.index(name)) < index:
            yield ConfigProblem(f"sources[{index}].name", f"the same as sources[{first}].name")


def _retention_too_short(retention: float, sources: Sequence[Mapping[str, Any]]) -> Iterator[ConfigProblem]:
    needs = [
        (max(values["lookback"], values["max_run_age"]) + values["overlap"], index)
        for index, values in enumerate(sources)
        if {"lookback", "max_run_age", "overlap"} <= values.keys()
    ]
    least, index = max(needs, default=(0.0, 0))
    if retention < least:
        reason = f"the longer of lookback and max_run_age of sources[{index}], plus its overlap"
        yield ConfigProblem("state.retention", f"must be at least {format_duration(least)}: {reason}")


def schema(settings: KnownNames) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a config file, for editors."""
    model = _model(settings).model_json_schema()
    model["$defs"]["MetricsSettings"]["properties"]["exclude"]["items"]["enum"] = sorted(settings.families)
    return {"$schema": GenerateJsonSchema.schema_dialect, **model}


def secrets(config: Config) -> list[Secret]:
    """Return all texts in the config that must never be printed."""
    proxies = (urlsplit(source.proxy_url).password for source in config.sources)
    passwords = {spelling for password in proxies if password for spelling in (password, unquote(password))}
    if config.state.url is not None and (password := urlsplit(config.state.url.reveal()).password):
        passwords |= {password, unquote(password)}
    return [*config.secrets(), *map(Secret, sorted(passwords))]
