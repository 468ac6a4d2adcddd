"""Workato's API: its paths, and parsers of its answers. Titles, inputs and outputs are never decoded."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from exporter.errors import SchemaError
from exporter.model import FAILING, FUTURE_MARGIN, Job, Result, Run, State, Step, one_row_per_run
from exporter.sources.oddities import Oddity
from exporter.sources.payload import ABSENT, OBJECT, decode, decode_rows, decoded, identity, scalar, text
from exporter.sources.rest import MAX_WORD_LENGTH, StatusTable, look_up, seconds_between
from exporter.times import parse_timestamp, read_duration

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
    # The vendor's pages about jobs have these; whether the API uses them is not documented.
    "canceled": Result.CANCELLATION,
    "cancelled": Result.CANCELLATION,
    "canceling": State.EXECUTING,
    "cancelling": State.EXECUTING,
    "processing": State.EXECUTING,
    "running": State.EXECUTING,
}
POLL_ERROR = "poll_error"
"""The error type of a job that failed while its trigger asked for events, where the vendor names no other."""
# Names of adapters, operations and error types; anything else may be a customer's text.
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", re.ASCII)


Total = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""A number of jobs; a larger one is an error."""


class Customer(msgspec.Struct, frozen=True):
    """A managed user: its ID, which is a scope, and the label of its recipes. Both are "" for a single workspace."""

    customer_id: str
    label: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, with the counts of its completed jobs, None where the API has none."""

    recipe_id: str
    name: str
    running: bool | None
    stop_cause: str
    succeeded: int | None
    failed: int | None
    last_run: str


class WorkatoJob(msgspec.Struct, frozen=True, kw_only=True):
    """A Workato job (a run), as a list or its own page shows it. `odd`: its unreadable values."""

    job_id: str
    status: str
    started: float | None
    completed: float | None
    is_error: bool
    is_repeat: bool
    error_type: str
    odd: tuple[Oddity, ...] = ()


class CustomerFields(msgspec.Struct):
    """The fields used of a managed user, not yet decoded."""

    id: msgspec.Raw = ABSENT
    external_id: msgspec.Raw = ABSENT


class RecipeFields(msgspec.Struct):
    """The fields used of a recipe, not yet decoded."""

    id: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    running: msgspec.Raw = ABSENT
    stop_cause: msgspec.Raw = ABSENT
    job_succeeded_count: msgspec.Raw = ABSENT
    job_failed_count: msgspec.Raw = ABSENT
    last_run_at: msgspec.Raw = ABSENT


class WorkatoJobFields(msgspec.Struct):
    """The fields used of a job, not yet decoded."""

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


class LineFields(msgspec.Struct):
    """The fields used of a line, not yet decoded."""

    recipe_line_number: msgspec.Raw = ABSENT
    adapter_name: msgspec.Raw = ABSENT
    adapter_operation: msgspec.Raw = ABSENT
    line_stat: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT
    error_descriptor: msgspec.Raw = ABSENT


class ErrorParts(msgspec.Struct):
    """The fields used of a job's `error_parts`."""

    error_type: msgspec.Raw = ABSENT
    adapter: msgspec.Raw = ABSENT
    line_number: msgspec.Raw = ABSENT


class LineStat(msgspec.Struct):
    """The fields used of a line's `line_stat`: its duration, or its start and end."""

    total: msgspec.Raw = ABSENT
    started_at: msgspec.Raw = ABSENT
    completed_at: msgspec.Raw = ABSENT

    def duration(self) -> float | None:
        """Return its seconds, None if unknown."""
        total = read_duration(scalar(self.total))
        started, completed = parse_timestamp(scalar(self.started_at)), parse_timestamp(scalar(self.completed_at))
        return seconds_between(started, completed) if total is None else total


class JobTotals(msgspec.Struct):
    """The counts used of a page."""

    job_scope_count: Total | None = None


TOTALS: msgspec.json.Decoder[JobTotals] = msgspec.json.Decoder(JobTotals)
CUSTOMER_FIELDS: msgspec.json.Decoder[CustomerFields] = msgspec.json.Decoder(CustomerFields)
RECIPE_FIELDS: msgspec.json.Decoder[RecipeFields] = msgspec.json.Decoder(RecipeFields)
JOB_FIELDS: msgspec.json.Decoder[WorkatoJobFields] = msgspec.json.Decoder(WorkatoJobFields)
LINE_FIELDS: msgspec.json.Decoder[LineFields] = msgspec.json.Decoder(LineFields)
ERROR_PARTS: msgspec.json.Decoder[ErrorParts] = msgspec.json.Decoder(ErrorParts)
LINE_STAT: msgspec.json.Decoder[LineStat] = msgspec.json.Decoder(LineStat)
RAW_LIST: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
BOOLEAN: msgspec.json.Decoder[bool] = msgspec.json.Decoder(bool)
WHOLE: msgspec.json.Decoder[Total] = msgspec.json.Decoder(Total)
NOTHING = frozenset({b"", b"null", b"false", b'""', b"{}", b"[]"})
"""Values of a line's `error` without an error."""


def parse_customers(body: bytes) -> tuple[list[Customer], int]:
    """Return the managed users of a page, and the number of other rows.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not a list, or none of its rows is a managed user.
    """
    raws = decode_rows(body, LIST_KEYS)
    customers = []
    for raw in raws:
        loose = decoded(raw, CUSTOMER_FIELDS)
        if loose is not None and (customer_id := identity(loose.id)):
            customers.append(Customer(customer_id, text(loose.external_id) or customer_id))
    if raws and not customers:
        raise SchemaError("no row of the answer is a managed user")
    return customers, len(raws) - len(customers)


def parse_recipes(body: bytes) -> tuple[list[Recipe], int]:
    """Return the recipes of a page, and the number of other rows.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not a list, or none of its rows is a recipe.
    """
    raws = decode_rows(body, LIST_KEYS)
    recipes = [recipe for raw in raws if (recipe := _recipe(raw)) is not None]
    if raws and not recipes:
        raise SchemaError("no row of the answer is a recipe")
    return recipes, len(raws) - len(recipes)


def _recipe(raw: msgspec.Raw) -> Recipe | None:
    loose = decoded(raw, RECIPE_FIELDS)
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
        last_run=text(loose.last_run_at)[:MAX_WORD_LENGTH],
    )


def parse_jobs(body: bytes, status_map: StatusTable = STATUSES, *, first: bool = True) -> tuple[list[WorkatoJob], int]:
    """Return the jobs of a page, one row per job (`exporter.model.one_row_per_run`), and the number of other rows.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not a list, or none of the rows of the first page is a job.
    """
    raws = decode_rows(body, ("items", "result", "data"))
    rows = [row for raw in raws if (row := _job(decoded(raw, JOB_FIELDS))) is not None]
    # A later page may consist of the row with which the one before should have ended.
    if raws and not rows and first:
        raise SchemaError("no row of the answer is a job")
    jobs: dict[str, WorkatoJob] = {}
    for row in rows:
        jobs[row.job_id] = better(jobs.get(row.job_id, row), row, status_map)
    return list(jobs.values()), len(raws) - len(rows)


def better(one: WorkatoJob, other: WorkatoJob, status_map: StatusTable) -> WorkatoJob:
    """Return the right one of two rows of a job."""
    if one == other:
        return one
    runs = {to_run(row, "", status_map): row for row in (one, other)}
    return runs[one_row_per_run(runs)[0]]


def parse_total(body: bytes) -> int | None:
    """Return the number of jobs that match a list's filter, None if the list does not have it."""
    try:
        return decode(body, TOTALS).job_scope_count
    except SchemaError:
        return None


def parse_job(body: bytes, job_id: str) -> tuple[WorkatoJob, list[Step]]:
    """Return the job of this ID, with its steps: the lines that ran, each once.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not this job.
    """
    loose = decode(body, JOB_FIELDS)
    row = _job(loose)
    if row is None or job_id not in (row.job_id, text(loose.handle)):
        raise SchemaError("the answer is not the job that was asked for")
    parts = decoded(loose.error_parts, ERROR_PARTS) or ErrorParts()
    lines = decoded(loose.lines, RAW_LIST)
    steps = [] if lines is None else _steps(lines, text(parts.line_number))
    return msgspec.structs.replace(row, job_id=job_id), steps


def parse_error(body: bytes, step_name: str) -> str:
    """Return the error text of a job, or of one of its steps: customers' data, never stored.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not an object.
    """
    loose = decode(body, JOB_FIELDS)
    if not step_name:
        return _message(loose.error)
    lines = (decoded(raw, LINE_FIELDS) for raw in decoded(loose.lines, RAW_LIST) or [])
    named = [line for line in lines if line is not None and _step(line, "").name == step_name]
    return "\n".join(message for line in named if (message := _message(line.error)))


def _message(raw: msgspec.Raw) -> str:
    # An error is a text, or an object with one.
    return text(raw) or text((decoded(raw, OBJECT) or {}).get("message", ABSENT))


def _job(loose: WorkatoJobFields | None) -> WorkatoJob | None:
    job_id = "" if loose is None else identity(loose.id, loose.handle)
    if loose is None or not job_id:
        return None
    master = text(loose.master_job_id)
    times = {"start": scalar(loose.started_at), "end": scalar(loose.completed_at)}
    started, completed = map(parse_timestamp, times.values())
    return WorkatoJob(
        job_id=job_id,
        status=text(loose.status).strip()[:MAX_WORD_LENGTH],
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


def _error_type(loose: WorkatoJobFields) -> str:
    parts = decoded(loose.error_parts, ERROR_PARTS) or ErrorParts()
    other = POLL_ERROR if decoded(loose.is_poll_error, BOOLEAN) is True else ""
    return _word(text(parts.error_type)) or _word(text(parts.adapter)) or other


def _word(value: str) -> str:
    return value if WORD.fullmatch(value) else ""


def _steps(raws: Sequence[msgspec.Raw], failed_line: str) -> list[Step]:
    # Lines of a loop come once per iteration: they are one step with the total duration, failed if one failed.
    steps: dict[str, Step] = {}
    for raw in raws:
        loose = decoded(raw, LINE_FIELDS)
        if loose is None or not text(loose.recipe_line_number):
            continue
        step = _step(loose, failed_line)
        steps[step.name] = _joined(steps[step.name], step) if step.name in steps else step
    return list(steps.values())


def _step(loose: LineFields, failed_line: str) -> Step:
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
    """Return the job of a recipe; `url`: its page."""
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
    """Return the identity of a recipe."""
    # No documentation says that its ID is unique beyond its customer.
    return f"{customer_id}/{recipe_id}" if customer_id else recipe_id


def split_job_id(job_id: str) -> tuple[str, str]:
    """Return the customer and the recipe of a job's identity."""
    customer_id, _, recipe_id = job_id.rpartition("/")
    return customer_id, recipe_id


def to_run(row: WorkatoJob, job_id: str, status_map: StatusTable) -> Run:
    """Return the run of a row."""
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
        duration=seconds_between(row.started, end),
        retries=int(row.is_repeat),
        recovered=row.is_repeat and result is Result.SUCCESS,
        error_type=row.error_type if result in FAILING else "",
    )


def _meaning(row: WorkatoJob, status_map: StatusTable) -> tuple[Result | State | None, str]:
    """Return the meaning of a row and its unmapped status: by its status, else by its error flag and end."""
    meaning, unmapped = look_up(row.status, status_map) if row.status else (None, "")
    if meaning is not None:
        return meaning, ""
    if row.is_error:
        return Result.FAILURE, unmapped
    if row.status:
        return (None if row.completed is None else Result.UNKNOWN), unmapped
    return (State.EXECUTING if row.completed is None else Result.SUCCESS), ""


def oddities(row: WorkatoJob, run: Run, now: float) -> Iterator[Oddity]:
    """Yield the unreadable or implausible values of a row."""
    yield from row.odd
    if run.end is not None and run.end > now + FUTURE_MARGIN:
        yield "end of a run is in the future", f"{run.end - now:.0f}s ahead"
