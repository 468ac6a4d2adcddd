"""Workato's API: its paths, and what its answers mean. Titles, inputs and outputs are never decoded."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from exporter.errors import SchemaError
from exporter.model import FAILING, Job, Result, Run, State, Step, one_row_per_run
from exporter.sources.oddities import FUTURE_MARGIN, Oddity
from exporter.sources.payload import ABSENT, OBJECT, decode, decode_rows, decoded, identity, scalar, text
from exporter.sources.rest import LONGEST_WORD, StatusTable, spelled, status_table
from exporter.times import parse_duration, parse_timestamp

USERS = "/managed_users"
RECIPES = "/recipes"
CUSTOMER = USERS + "/{customer}"
JOBS = RECIPES + "/{recipe}/jobs"
JOB = JOBS + "/{job}"
LIST_KEYS = ("result", "items", "data")
STATUSES: StatusTable = {
    "succeeded": Result.SUCCESS,
    "failed": Result.FAILURE,
    "pending": State.EXECUTING,
    # Words of the vendor's pages about jobs; whether the API uses them is not documented.
    "canceled": Result.CANCELLATION,
    "cancelled": Result.CANCELLATION,
    "canceling": State.EXECUTING,
    "cancelling": State.EXECUTING,
    "processing": State.EXECUTING,
    "running": State.EXECUTING,
}
POLL_ERROR = "poll_error"
"""The error type of a job that failed while its trigger asked for events, where the vendor names no other."""
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", re.ASCII)
"""What names of adapters, operations and kinds of errors look like; anything else may be a customer's text."""


Total = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""A number of jobs; one that is larger is a mistake."""


class Customer(msgspec.Struct, frozen=True):
    """A managed user: its id, which is a scope, and the label of its recipes. Both "" for an ordinary workspace."""

    customer_id: str
    label: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe. The counts are those of its jobs that ended, None where the API does not tell."""

    recipe_id: str
    name: str
    running: bool | None
    stop_cause: str
    succeeded: int | None
    failed: int | None
    last_run: str


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A Workato job (a run), as a list or its own page shows it. `odd`: what of it cannot be read."""

    job_id: str
    status: str
    started: float | None
    completed: float | None
    is_error: bool
    is_repeat: bool
    error_type: str
    odd: tuple[Oddity, ...] = ()


class LooseCustomer(msgspec.Struct):
    """A managed user, not yet decoded."""

    id: msgspec.Raw = ABSENT
    external_id: msgspec.Raw = ABSENT


class LooseRecipe(msgspec.Struct):
    """What is used of a recipe, not yet decoded."""

    id: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    running: msgspec.Raw = ABSENT
    stop_cause: msgspec.Raw = ABSENT
    job_succeeded_count: msgspec.Raw = ABSENT
    job_failed_count: msgspec.Raw = ABSENT
    last_run_at: msgspec.Raw = ABSENT


class LooseJob(msgspec.Struct):
    """What is used of a job, not yet decoded."""

    id: msgspec.Raw = ABSENT
    handle: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    started_at: msgspec.Raw = ABSENT
    completed_at: msgspec.Raw = ABSENT
    is_error: msgspec.Raw = ABSENT
    is_poll_error: msgspec.Raw = ABSENT
    is_repeat: msgspec.Raw = ABSENT
    master_job_id: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    error_parts: msgspec.Raw = ABSENT
    lines: msgspec.Raw = ABSENT


class LooseLine(msgspec.Struct):
    """What is used of a line, not yet decoded."""

    recipe_line_number: msgspec.Raw = ABSENT
    adapter_name: msgspec.Raw = ABSENT
    adapter_operation: msgspec.Raw = ABSENT
    line_stat: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    error_descriptor: msgspec.Raw = ABSENT


class ErrorParts(msgspec.Struct):
    """What is used of a job's `error_parts`."""

    error_type: msgspec.Raw = ABSENT
    adapter: msgspec.Raw = ABSENT
    line_number: msgspec.Raw = ABSENT


class LineStat(msgspec.Struct):
    """What is used of a line's `line_stat`: its duration, or when it began and ended."""

    total: msgspec.Raw = ABSENT
    started_at: msgspec.Raw = ABSENT
    completed_at: msgspec.Raw = ABSENT

    def duration(self) -> float | None:
        """Seconds, None if it tells neither."""
        total = parse_duration(scalar(self.total))
        started, completed = parse_timestamp(scalar(self.started_at)), parse_timestamp(scalar(self.completed_at))
        if total is not None or started is None or completed is None:
            return total
        return max(0.0, completed - started)


class Counts(msgspec.Struct):
    """What is used of a page's counts."""

    job_scope_count: Total | None = None


COUNTS: msgspec.json.Decoder[Counts] = msgspec.json.Decoder(Counts)
LOOSE_CUSTOMER: msgspec.json.Decoder[LooseCustomer] = msgspec.json.Decoder(LooseCustomer)
LOOSE_RECIPE: msgspec.json.Decoder[LooseRecipe] = msgspec.json.Decoder(LooseRecipe)
LOOSE_JOB: msgspec.json.Decoder[LooseJob] = msgspec.json.Decoder(LooseJob)
LOOSE_LINE: msgspec.json.Decoder[LooseLine] = msgspec.json.Decoder(LooseLine)
ERROR_PARTS: msgspec.json.Decoder[ErrorParts] = msgspec.json.Decoder(ErrorParts)
LINE_STAT: msgspec.json.Decoder[LineStat] = msgspec.json.Decoder(LineStat)
RAW_LIST: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
BOOLEAN: msgspec.json.Decoder[bool] = msgspec.json.Decoder(bool)
WHOLE: msgspec.json.Decoder[Total] = msgspec.json.Decoder(Total)
NOTHING = frozenset({b"", b"null", b"false", b'""', b"{}", b"[]"})
"""Values of a line's `error` that say that there was none."""


def statuses(status_map: StatusTable) -> StatusTable:
    """The table of status words: the vendor's, and over them those of the configuration."""
    return status_table(STATUSES, status_map)


def parse_customers(body: bytes) -> tuple[list[Customer], int]:
    """The managed users of a page, and how many rows were none.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is a managed user.
    """
    raws = decode_rows(body, LIST_KEYS)
    customers = []
    for raw in raws:
        loose = decoded(raw, LOOSE_CUSTOMER)
        if loose is not None and (customer_id := identity(loose.id)):
            customers.append(Customer(customer_id, text(loose.external_id) or customer_id))
    if raws and not customers:
        raise SchemaError("no row of the answer is a managed user")
    return customers, len(raws) - len(customers)


def parse_recipes(body: bytes) -> tuple[list[Recipe], int]:
    """The recipes of a page, and how many rows were none.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is a recipe.
    """
    raws = decode_rows(body, LIST_KEYS)
    recipes = [recipe for raw in raws if (recipe := _recipe(raw)) is not None]
    if raws and not recipes:
        raise SchemaError("no row of the answer is a recipe")
    return recipes, len(raws) - len(recipes)


def _recipe(raw: msgspec.Raw) -> Recipe | None:
    loose = decoded(raw, LOOSE_RECIPE)
    recipe_id = "" if loose is None else identity(loose.id)
    if loose is None or not recipe_id:
        return None
    return Recipe(
        recipe_id=recipe_id,
        name=text(loose.name),
        running=decoded(loose.running, BOOLEAN),
        stop_cause=_word(text(loose.stop_cause)),
        succeeded=decoded(loose.job_succeeded_count, WHOLE),
        failed=decoded(loose.job_failed_count, WHOLE),
        last_run=text(loose.last_run_at)[:LONGEST_WORD],
    )


def parse_jobs(body: bytes, status_map: StatusTable = STATUSES, *, first: bool = True) -> tuple[list[JobRow], int]:
    """The jobs of a page, each once, in its order, and how many rows were none.

    Of several rows of a job it is the one to believe (`exporter.model.one_row_per_run`).

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is no list, or none of its rows is a job although it is the first page: what it shows is
            something else. A later one may consist of the row with which the one before should have ended.
    """
    raws = decode_rows(body, ("items", "result", "data"))
    rows = [row for raw in raws if (row := _job(decoded(raw, LOOSE_JOB))) is not None]
    if raws and not rows and first:
        raise SchemaError("no row of the answer is a job")
    jobs: dict[str, JobRow] = {}
    for row in rows:
        jobs[row.job_id] = better(jobs.get(row.job_id, row), row, status_map)
    return list(jobs.values()), len(raws) - len(rows)


def better(one: JobRow, other: JobRow, status_map: StatusTable) -> JobRow:
    """Of two rows of one job the one to believe."""
    if one == other:
        return one
    runs = {to_run(row, "", status_map): row for row in (one, other)}
    return runs[one_row_per_run(runs)[0]]


def parse_total(body: bytes) -> int | None:
    """How many jobs the filter of a list lets through, None if the list does not tell."""
    try:
        return decode(body, COUNTS).job_scope_count
    except SchemaError:
        return None


def parse_job(body: bytes, job_id: str) -> tuple[JobRow, list[Step]]:
    """The job of this id, with its steps: the lines that ran, each once.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not this job.
    """
    loose = decode(body, LOOSE_JOB)
    row = _job(loose)
    if row is None or job_id not in (row.job_id, text(loose.handle)):
        raise SchemaError("the answer is not the job that was asked for")
    parts = decoded(loose.error_parts, ERROR_PARTS) or ErrorParts()
    lines = decoded(loose.lines, RAW_LIST)
    steps = [] if lines is None else _steps(lines, text(parts.line_number))
    return msgspec.structs.replace(row, job_id=job_id), steps


def parse_error(body: bytes, step_name: str) -> str:
    """The error text of a job, or of one of its steps: customers' data, for a person who asked for it.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not an object.
    """
    loose = decode(body, LOOSE_JOB)
    if not step_name:
        return _message(loose.error)
    lines = (decoded(raw, LOOSE_LINE) for raw in decoded(loose.lines, RAW_LIST) or [])
    named = [line for line in lines if line is not None and _step(line, "").name == step_name]
    return "\n".join(message for line in named if (message := _message(line.error)))


def _message(raw: msgspec.Raw) -> str:
    """An error is a text, or an object with one."""
    return text(raw) or text((decoded(raw, OBJECT) or {}).get("message", ABSENT))


def _job(loose: LooseJob | None) -> JobRow | None:
    job_id = "" if loose is None else identity(loose.id, loose.handle)
    if loose is None or not job_id:
        return None
    master = text(loose.master_job_id)
    times = {"start": scalar(loose.started_at), "end": scalar(loose.completed_at)}
    started, completed = map(parse_timestamp, times.values())
    return JobRow(
        job_id=job_id,
        status=text(loose.status).strip()[:LONGEST_WORD],
        started=started,
        completed=completed,
        is_error=decoded(loose.is_error, BOOLEAN) is True,
        is_repeat=decoded(loose.is_repeat, BOOLEAN) is True
        or bool(master and master not in (job_id, text(loose.handle))),
        error_type=_error_type(loose),
        odd=tuple(
            (f"{name} time of a run cannot be read", value)
            for (name, value), time in zip(times.items(), (started, completed), strict=True)
            if value is not None and time is None
        ),
    )


def _error_type(loose: LooseJob) -> str:
    parts = decoded(loose.error_parts, ERROR_PARTS) or ErrorParts()
    other = POLL_ERROR if decoded(loose.is_poll_error, BOOLEAN) is True else ""
    return _word(text(parts.error_type)) or _word(text(parts.adapter)) or other


def _word(value: str) -> str:
    """The value if it is a plain word, else ""."""
    return value if WORD.fullmatch(value) else ""


def _steps(raws: Sequence[msgspec.Raw], failed_line: str) -> list[Step]:
    """Lines of a loop come once for each turn: they are one step that took as long as all, and failed if one did."""
    steps: dict[str, Step] = {}
    for raw in raws:
        loose = decoded(raw, LOOSE_LINE)
        if loose is None or not text(loose.recipe_line_number):
            continue
        step = _step(loose, failed_line)
        steps[step.name] = _joined(steps[step.name], step) if step.name in steps else step
    return list(steps.values())


def _step(loose: LooseLine, failed_line: str) -> Step:
    number = text(loose.recipe_line_number)[:9]
    words = [word for raw in (loose.adapter_name, loose.adapter_operation) if (word := _word(text(raw)))]
    stat = decoded(loose.line_stat, LINE_STAT) or LineStat()
    failed = number == failed_line or any(bytes(raw) not in NOTHING for raw in (loose.error, loose.error_descriptor))
    return Step(
        name=f"{number} {'/'.join(words)}".strip(),
        result=Result.FAILURE if failed else Result.SUCCESS,
        duration=stat.duration(),
    )


def _joined(first: Step, second: Step) -> Step:
    durations = [step.duration for step in (first, second) if step.duration is not None]
    failed = Result.FAILURE in (first.result, second.result)
    return Step(
        name=first.name,
        result=Result.FAILURE if failed else Result.SUCCESS,
        duration=sum(durations) if durations else None,
    )


def to_job(recipe: Recipe, customer: Customer, url: str) -> Job:
    """The job that a recipe is; `url` is that of its page."""
    return Job(
        job_id=job_id_of(customer.customer_id, recipe.recipe_id),
        name=recipe.name or recipe.recipe_id,
        project=customer.label,
        scope=customer.customer_id,
        url=url,
        enabled=recipe.running,
        stop_cause=recipe.stop_cause,
    )


def job_id_of(customer_id: str, recipe_id: str) -> str:
    """The identity of a recipe: nothing promises that its id is unique beyond its customer."""
    return f"{customer_id}/{recipe_id}" if customer_id else recipe_id


def split_job_id(job_id: str) -> tuple[str, str]:
    """Customer and recipe of a job's identity."""
    customer_id, _, recipe_id = job_id.rpartition("/")
    return customer_id, recipe_id


def to_run(row: JobRow, job_id: str, status_map: StatusTable) -> Run:
    """The run of a row; `status_map` is the table made by `statuses`."""
    meaning, unmapped = _meaning(row, status_map)
    result = meaning if isinstance(meaning, Result) else None
    state = meaning if isinstance(meaning, State) else None
    if state is State.EXECUTING and row.started is None:
        state = State.PENDING
    end = row.completed if result is not None else None
    return Run(
        run_id=row.job_id,
        job_id=job_id,
        result=result,
        state=state,
        unmapped=unmapped,
        start=row.started,
        end=end,
        duration=max(0.0, end - row.started) if end is not None and row.started is not None else None,
        retries=int(row.is_repeat),
        recovered=row.is_repeat and result is Result.SUCCESS,
        error_type=row.error_type if result in FAILING else "",
    )


def _meaning(row: JobRow, status_map: StatusTable) -> tuple[Result | State | None, str]:
    """What the status word means, and that word if it is in no table; then, or without one, error flag and end tell."""
    if row.status:
        meaning = status_map.get(spelled(row.status))
        if meaning is not None:
            return meaning, ""
        if row.is_error:
            return Result.FAILURE, row.status
        return (None if row.completed is None else Result.UNKNOWN), row.status
    if row.is_error:
        return Result.FAILURE, ""
    return (State.EXECUTING if row.completed is None else Result.SUCCESS), ""


def oddities(row: JobRow, run: Run, now: float) -> Iterator[Oddity]:
    """What could not be read of a row, or is hard to believe."""
    yield from row.odd
    if run.end is not None and run.end > now + FUTURE_MARGIN:
        yield "end of a run is in the future", f"{run.end - now:.0f}s ahead"
