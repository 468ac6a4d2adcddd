"""Snowplow Console's jobs API: how to sign in, and what its answers mean."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated
from urllib.parse import quote

import httpx
import msgspec

from exporter.client.signin import TokenAuth, secret_bytes, secret_text
from exporter.errors import SchemaError
from exporter.model import Job, Result, Run, State, Step, one_row_per_run
from exporter.sources.payload import (
    ABSENT,
    LONGEST_ID,
    OBJECT,
    Scalar,
    decode,
    decode_rows,
    decoded,
    identity,
    scalar,
    text,
)
from exporter.sources.source import StepLog
from exporter.times import parse_duration, parse_instant

TOKEN_V2 = "/organizations/{org}/credentials/v2/token"  # noqa: S105  # a path
TOKEN_V3 = "/organizations/{org}/credentials/v3/token"  # noqa: S105  # a path
TOKEN_PASSWORD = "/oauth/token"  # noqa: S105  # a path
RUNS = "/organizations/{org}/jobs/v1/runs"
RUN = RUNS + "/{runId}"
STEPS = RUN + "/steps"
STEP = STEPS + "/{stepName}"
LIST_KEYS = ("runs", "jobRuns", "data", "items", "results")
STEP_LIST_KEYS = ("steps", *LIST_KEYS)
UNKNOWN_JOB = "unknown"
LONGEST_WORD = 64
NO_STATE = "absent"
"""The unmapped status of a row that has none."""
STATUSES: Mapping[str, Result | State] = {
    "waiting": State.PENDING,
    "running": State.EXECUTING,
    "succeeded": Result.SUCCESS,
    "succeeded_no_op": Result.SUCCESS,  # a step that asked to stop early, all being done
    "failed": Result.FAILURE,
    "skipped": Result.SKIP,
}
REFUSALS = {
    401: "the key is wrong or was revoked",
    403: "the key is wrong, or lacks the permission to view data models and jobs",
}


class ApiKeyAuth(TokenAuth):
    """Sign-in by API key: version 3 with the key's id, version 2 (deprecated) without.

    `root` is that of the API; secrets are read anew at each sign-in.
    """

    def __init__(
        self,
        root: str,
        organization: str,
        *,
        api_key: Callable[[], str],
        api_key_id: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self._endpoint = TOKEN_V2 if api_key_id is None else TOKEN_V3
        self._url = root.rstrip("/") + path(self._endpoint, org=organization)
        self._headers = {"X-API-Key": api_key}
        if api_key_id is not None:
            self._headers["X-API-Key-ID"] = api_key_id

    def token_request(self, extensions: Mapping[str, object]) -> httpx.Request:
        """The key in headers."""
        headers = {name: secret_bytes(read) for name, read in self._headers.items()}
        return httpx.Request(
            "GET",
            self._url,
            headers=[(b"Accept", b"application/json"), *((name.encode(), value) for name, value in headers.items())],
            extensions={**extensions, "endpoint": self._endpoint},
        )

    def refusal(self, status: int) -> str:
        """404 is about the organization, which is part of the path."""
        return REFUSALS.get(status, "unknown organization" if status == 404 else "the request was not understood")


class PasswordAuth(TokenAuth):
    """Sign-in by a user's name and password, as older consoles have it; secrets are read anew at each sign-in."""

    def __init__(  # noqa: PLR0913  # the fields of the form
        self,
        *,
        username: str,
        password: Callable[[], str],
        client_id: str,
        client_secret: Callable[[], str],
        token_url: str = "https://id.snowplowanalytics.com/oauth/token",  # noqa: S107  # an address
        audience: str = "https://snowplowanalytics.com/api/",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self._url = token_url
        self._form = {
            "grant_type": "password",
            "username": username,
            "audience": audience,
            "client_id": client_id,
        }
        self._secrets = {"password": password, "client_secret": client_secret}

    def token_request(self, extensions: Mapping[str, object]) -> httpx.Request:
        """All of it in a form."""
        secrets = {name: secret_text(read) for name, read in self._secrets.items()}
        return httpx.Request(
            "POST",
            self._url,
            data={**self._form, **secrets},
            headers={"Accept": "application/json"},
            extensions={**extensions, "endpoint": TOKEN_PASSWORD},
        )

    def refusal(self, status: int) -> str:
        """404 is about the address."""
        return "nothing answers at the token URL" if status == 404 else "the user or the client is not accepted"


def path(endpoint: str, **parts: str) -> str:
    """The path of an endpoint (template), with its parts percent-encoded."""
    return endpoint.format_map({name: quote(part, safe="") for name, part in parts.items()})


class RunRow(msgspec.Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """A run as the API words it; equal rows mean the same. Of the names for one thing, the first not None counts."""

    run_id: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_ID)]
    job_name: str
    environment: str
    state: str
    start_time: Scalar = None
    duration: Scalar = None
    started_at: Scalar = None
    started: Scalar = None
    run_duration: Scalar = None
    end_time: Scalar = None
    ended_at: Scalar = None
    finished_at: Scalar = None


class LooseRow(msgspec.Struct, kw_only=True, rename="camel"):
    """Everything that a run or a step may hold, under every name that it may have, not yet decoded."""

    run_id: msgspec.Raw = ABSENT
    id: msgspec.Raw = ABSENT
    run_reference: msgspec.Raw = ABSENT
    job_name: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    step_name: msgspec.Raw = ABSENT
    task_name: msgspec.Raw = ABSENT
    environment: msgspec.Raw = ABSENT
    state: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    run_state: msgspec.Raw = ABSENT
    start_time: msgspec.Raw = ABSENT
    started_at: msgspec.Raw = ABSENT
    started: msgspec.Raw = ABSENT
    end_time: msgspec.Raw = ABSENT
    ended_at: msgspec.Raw = ABSENT
    finished_at: msgspec.Raw = ABSENT
    duration: msgspec.Raw = ABSENT
    run_duration: msgspec.Raw = ABSENT
    dependencies: msgspec.Raw = ABSENT
    depends_on: msgspec.Raw = ABSENT
    steps: msgspec.Raw = ABSENT

    def word(self) -> str:
        """The status, as the API words it."""
        return text(self.state, self.status, self.run_state)

    def times(self) -> tuple[Scalar, Scalar, Scalar]:
        """Start, end and duration, as the API words them."""
        return (
            scalar(self.start_time, self.started_at, self.started),
            scalar(self.end_time, self.ended_at, self.finished_at),
            scalar(self.duration, self.run_duration),
        )


TYPED_ROW: msgspec.json.Decoder[RunRow] = msgspec.json.Decoder(RunRow)
LOOSE_ROW: msgspec.json.Decoder[LooseRow] = msgspec.json.Decoder(LooseRow)
RAW_LIST: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])


def statuses(status_map: Mapping[str, Result | State]) -> Mapping[str, Result | State]:
    """The table of status words, letter case folded: the vendor's, and over them those of the configuration."""
    return {**STATUSES, **{word.casefold(): meaning for word, meaning in status_map.items()}}


class RunList(msgspec.Struct, frozen=True, dict=True):
    """The runs of a list, each once: of several rows of a run the one to believe (`exporter.model.one_row_per_run`).

    Attributes:
        body: The list itself.
        texts: Its runs by their text in it. A row that is not believed is not in it.
        fresh: Those that an earlier list did not show with the same text.
        invalid: How many rows were not runs.
        repeated: How many rows were of a run that another row shows.
    """

    body: bytes
    texts: Mapping[bytes, RunRow]
    fresh: Sequence[RunRow]
    invalid: int
    repeated: int = 0

    @cached_property
    def by_id(self) -> Mapping[str, RunRow]:
        """Its runs by their ids."""
        return {row.run_id: row for row in self.texts.values()}


def parse_rows(
    body: bytes, known: Mapping[bytes, RunRow], status_map: Mapping[str, Result | State] = STATUSES
) -> RunList:
    """The runs of a list. `known` are the texts of an earlier one: most rows are usually the same to the byte.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is a run.
    """
    texts, valid, invalid = dict[bytes, RunRow](), 0, 0
    for raw in decode_rows(body, LIST_KEYS):
        words = bytes(raw)
        row = known.get(words) or _row(raw)
        if row is None:
            invalid += 1
            continue
        valid += 1
        texts[words] = row
    if invalid and not texts:
        raise SchemaError("no row of the answer is a run")
    texts = _one_per_run(texts, status_map)
    fresh = [row for words, row in texts.items() if words not in known]
    return RunList(body, texts, fresh, invalid, valid - len(texts))


def _one_per_run(texts: dict[bytes, RunRow], status_map: Mapping[str, Result | State]) -> dict[bytes, RunRow]:
    """Without the rows that are not to be believed: they must not be known when a later list shows them alone."""
    words_of: dict[str, list[bytes]] = {}
    for words, row in texts.items():
        words_of.setdefault(row.run_id, []).append(words)
    losing = set[bytes]()
    for several in words_of.values():
        if len(several) > 1:
            runs = {to_run(texts[words], status_map): words for words in sorted(several)}
            losing.update(several)
            losing.remove(runs[one_row_per_run(runs)[0]])
    return {words: row for words, row in texts.items() if words not in losing} if losing else texts


def _row(raw: msgspec.Raw) -> RunRow | None:
    """A row with its fields under their first names, None if it has no id."""
    row = decoded(raw, TYPED_ROW)
    if row is not None:
        return row
    loose = decoded(raw, LOOSE_ROW)
    return None if loose is None else _from_loose(loose)


def _from_loose(loose: LooseRow) -> RunRow | None:
    run_id = identity(loose.run_id, loose.run_reference, loose.id)
    if not run_id:
        return None
    start, end, duration = loose.times()
    return RunRow(
        run_id=run_id,
        job_name=text(loose.job_name, loose.name),
        environment=text(loose.environment),
        state=loose.word(),
        start_time=start,
        duration=duration,
        end_time=end,
    )


def to_job(row: RunRow) -> Job:
    """The job of a run. Its identity is environment and name; the vendor's own id changes with each edit."""
    return Job(job_id=job_id_of(row), name=row.job_name or UNKNOWN_JOB, project=row.environment)


def job_id_of(row: RunRow) -> str:
    """The identity of the job of a run."""
    return f"{row.environment}/{row.job_name or UNKNOWN_JOB}"


def to_run(row: RunRow, status_map: Mapping[str, Result | State]) -> Run:
    """The run of a row; `status_map` is the table made by `statuses`.

    An ended run without any duration and end has `end` None. The duration so far of an open run is left out: it would
    make another run of it at each reading.
    """
    meaning, unmapped = _meaning(row.state, status_map)
    start = start_of(row)
    end = parse_instant(_first(row.end_time, row.ended_at, row.finished_at))
    duration = parse_duration(_first(row.duration, row.run_duration))
    if meaning is None and end is not None:
        meaning = Result.UNKNOWN
    result = meaning if isinstance(meaning, Result) else None
    end, duration = (None, None) if result is None else _completed(start, end, duration)
    return Run(
        run_id=row.run_id,
        job_id=job_id_of(row),
        result=result,
        state=meaning if isinstance(meaning, State) else None,
        unmapped=unmapped,
        start=start,
        end=end,
        duration=duration,
    )


def start_of(row: RunRow) -> float | None:
    """When the run of a row started."""
    return parse_instant(_first(row.start_time, row.started_at, row.started))


def parse_run(body: bytes, status_map: Mapping[str, Result | State]) -> tuple[RunRow, list[Step] | None]:
    """One run, and its steps if they came along.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not a run.
    """
    loose = decode(body, LOOSE_ROW)
    row = _from_loose(loose)
    if row is None:
        raise SchemaError("the answer is not a run: it has no id")
    raws = decoded(loose.steps, RAW_LIST)
    return row, None if raws is None else _steps(raws, status_map)


def parse_steps(body: bytes, status_map: Mapping[str, Result | State]) -> list[Step]:
    """The steps of a run, each name once.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is a step.
    """
    raws = decode_rows(body, STEP_LIST_KEYS)
    steps = _steps(raws, status_map)
    if raws and not steps:
        raise SchemaError("no row of the answer is a step")
    return steps


def parse_log(body: bytes) -> StepLog:
    """The tail of a step's output.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not an object.
    """
    fields = decode(body, OBJECT)
    return StepLog(stdout=text(fields.get("stdout", ABSENT)), stderr=text(fields.get("stderr", ABSENT)))


def _steps(raws: Sequence[msgspec.Raw], status_map: Mapping[str, Result | State]) -> list[Step]:
    steps: dict[str, Step] = {}
    for raw in raws:
        loose = decoded(raw, LOOSE_ROW)
        name = "" if loose is None else text(loose.name, loose.step_name, loose.task_name)
        if loose is not None and name:
            steps[name] = _step(loose, name, status_map)
    return list(steps.values())


def _step(loose: LooseRow, name: str, status_map: Mapping[str, Result | State]) -> Step:
    meaning, _ = _meaning(loose.word(), status_map)
    start, end, duration = loose.times()
    times = parse_instant(start), parse_instant(end), parse_duration(duration)
    result = meaning if isinstance(meaning, Result) else None
    ended, lasted = _completed(*times) if result is not None else (None, times[2])
    return Step(
        name=name,
        result=result,
        state=meaning if isinstance(meaning, State) else None,
        start=times[0],
        end=ended,
        duration=lasted,
        dependencies=_dependencies(loose),
    )


def _dependencies(loose: LooseRow) -> tuple[str, ...]:
    """Names, or objects that have one."""
    raws = decoded(loose.dependencies, RAW_LIST)
    if raws is None:
        raws = decoded(loose.depends_on, RAW_LIST) or []
    names = (text(raw) or text((decoded(raw, OBJECT) or {}).get("name", ABSENT)) for raw in raws)
    return tuple(name for name in names if name)


def _meaning(word: str, status_map: Mapping[str, Result | State]) -> tuple[Result | State | None, str]:
    """What a status word means, or None and the word itself."""
    word = word.strip()[:LONGEST_WORD]
    meaning = status_map.get(word.casefold())
    return (meaning, "") if meaning is not None else (None, word or NO_STATE)


def _completed(start: float | None, end: float | None, duration: float | None) -> tuple[float | None, float | None]:
    """End and duration of what has ended, each from the other where it is missing."""
    if end is None and start is not None and duration is not None:
        end = start + duration
    if duration is None and start is not None and end is not None:
        duration = max(0.0, end - start)
    return end, duration


def _first(*values: Scalar) -> Scalar:
    for value in values:
        if value is not None:
            return value
    return None
