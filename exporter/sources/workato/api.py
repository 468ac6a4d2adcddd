"""Workato's API: its paths, and parsers of its responses. Titles, inputs and outputs are never decoded.

Workato's words differ from the exporter's: its recipes are jobs, its jobs are runs, and lines of recipes are steps.
Parsers raise DecodeError for a body that is not JSON, and SchemaError for a body of another shape.
"""

import re
from collections.abc import Iterator, Sequence

import msgspec

from exporter.errors import SchemaError
from exporter.model import FAILING, FUTURE_MARGIN, Job, Result, Run, State, Step
from exporter.sources.payload import MAX_WORD_LENGTH, Fields, Scalar, decode_rows, usable
from exporter.sources.rest import Meaning, StatusTable, ValueProblem, best_row, look_up, seconds_between
from exporter.times import parse_timestamp, parse_vendor_duration

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
    # The vendor's user interface has these statuses. Whether the API uses them is not documented.
    "canceled": Result.CANCELLATION,
    "cancelled": Result.CANCELLATION,
    "canceling": State.EXECUTING,
    "cancelling": State.EXECUTING,
    "processing": State.EXECUTING,
    "running": State.EXECUTING,
}
NO_ERROR = frozenset({b"null", b"false", b'""', b"{}", b"[]"})
"""Values of a line's `error` if the line did not fail."""
POLL_ERROR = "poll_error"
"""Error type of a job whose trigger failed to poll for events, if the vendor names no other."""
# Names of adapters, operations and error types. Other texts may be customer data.
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,63}", re.ASCII)
# A larger number of jobs is wrong.
MAX_TOTAL = 2**53


class Customer(msgspec.Struct, frozen=True):
    """A managed user. Its ID is the scope, its label the project of its recipes. Both are "" for a single workspace."""

    customer_id: str
    label: str


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """A recipe, and the numbers of its completed jobs; None if the API does not show them."""

    recipe_id: str
    name: str
    running: bool | None
    stop_cause: str
    succeeded: int | None
    failed: int | None
    last_run: str


class WorkatoJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the API shows it. `problems`: its unreadable values."""

    job_id: str
    status: str
    started: float | None
    completed: float | None
    is_error: bool
    is_repeat: bool
    error_type: str
    problems: tuple[ValueProblem, ...] = ()


def parse_customers(body: bytes) -> tuple[list[Customer], int]:
    """Return the managed users of a page, and the number of rows that are not managed users."""
    raws = decode_rows(body, LIST_KEYS)
    customers = usable(raws, _customer, "a managed user")
    return customers, len(raws) - len(customers)


def _customer(raw: msgspec.Raw) -> Customer | None:
    fields = Fields.of(raw)
    customer_id = fields.identity("id")
    return Customer(customer_id, fields.name("external_id") or customer_id) if customer_id else None


def parse_recipes(body: bytes) -> tuple[list[Recipe], int]:
    """Return the recipes of a page, and the number of rows that are not recipes."""
    raws = decode_rows(body, LIST_KEYS)
    recipes = usable(raws, _recipe, "a recipe")
    return recipes, len(raws) - len(recipes)


def _recipe(raw: msgspec.Raw) -> Recipe | None:
    fields = Fields.of(raw)
    recipe_id = fields.identity("id")
    if not recipe_id:
        return None
    return Recipe(
        recipe_id=recipe_id,
        name=fields.name("name"),
        running=fields.flag("running"),
        stop_cause=_word(fields.text("stop_cause")),
        succeeded=_total(fields.scalar("job_succeeded_count")),
        failed=_total(fields.scalar("job_failed_count")),
        last_run=fields.text("last_run_at")[:MAX_WORD_LENGTH],
    )


def _total(number: Scalar) -> int | None:
    """Return a number of jobs; None if it is not a number or implausibly large."""
    return number if isinstance(number, int) and 0 <= number < MAX_TOTAL else None


def parse_jobs(body: bytes, statuses: StatusTable = STATUSES, *, first: bool = True) -> tuple[list[WorkatoJob], int]:
    """Return the jobs of a page, one row per job, and the number of rows that are not jobs.

    Raises SchemaError if the first page has rows, but no jobs.
    """
    raws = decode_rows(body, ("items", "result", "data"))
    rows = usable(raws, lambda raw: _job(Fields.of(raw)), "a job", required=first)
    jobs: dict[str, WorkatoJob] = {}
    for row in rows:
        known = jobs.get(row.job_id)
        jobs[row.job_id] = row if known is None else better(known, row, statuses)
    return list(jobs.values()), len(raws) - len(rows)


def better(known: WorkatoJob, row: WorkatoJob, statuses: StatusTable) -> WorkatoJob:
    """Return the better one of two rows of a job."""
    return best_row((row, known), lambda each: to_run(each, "", statuses))


def parse_total(body: bytes) -> int | None:
    """Return the number of jobs that match a list's filter; None if the response does not have it."""
    try:
        return _total(Fields.of_body(body).scalar("job_scope_count"))
    except SchemaError:
        return None


def parse_job(body: bytes, job_id: str) -> tuple[WorkatoJob, list[Step]]:
    """Return a job and its steps: one per line of the recipe that ran."""
    fields = Fields.of_body(body)
    row = _job(fields)
    if row is None or job_id not in (row.job_id, fields.text("handle")):
        raise SchemaError("the response is another job")
    failed_line = fields.object("error_parts").text("line_number")
    return msgspec.structs.replace(row, job_id=job_id), _steps(fields.rows("lines") or [], failed_line)


def parse_error(body: bytes, step_name: str) -> str:
    """Return the error text of a step, or of the job for the step "". The text is customer data and is never stored."""
    fields = Fields.of_body(body)
    if not step_name:
        return _message(fields)
    lines = [Fields.of(raw) for raw in fields.rows("lines") or []]
    return "\n".join(text for line in lines if _step(line, "").name == step_name and (text := _message(line)))


def _message(fields: Fields) -> str:
    # An error is a text, or an object with a text.
    return fields.text("error") or fields.object("error").text("message")


def _job(fields: Fields) -> WorkatoJob | None:
    job_id = fields.identity("id", "handle")
    if not job_id:
        return None
    master = fields.text("master_job_id")
    times = {"start": fields.scalar("started_at"), "end": fields.scalar("completed_at")}
    started, completed = map(parse_timestamp, times.values())
    return WorkatoJob(
        job_id=job_id,
        status=fields.text("status").strip()[:MAX_WORD_LENGTH],
        started=started,
        completed=completed,
        is_error=fields.flag("is_error") is True,
        is_repeat=fields.flag("is_repeat") is True or bool(master and master not in (job_id, fields.text("handle"))),
        error_type=_error_type(fields),
        problems=tuple(
            (f"{name} time of a run cannot be read", value)
            for (name, value), time in zip(times.items(), (started, completed), strict=True)
            if value is not None and time is None
        ),
    )


def _error_type(fields: Fields) -> str:
    parts = fields.object("error_parts")
    default = POLL_ERROR if fields.flag("is_poll_error") is True else ""
    return _word(parts.text("error_type")) or _word(parts.text("adapter")) or default


def _word(value: str) -> str:
    return value if WORD.fullmatch(value) else ""


def _steps(raws: Sequence[msgspec.Raw], failed_line: str) -> list[Step]:
    # A line in a loop appears once per iteration. All iterations are one step with their total duration. The step has
    # failed if one iteration has failed.
    steps: dict[str, Step] = {}
    for fields in map(Fields.of, raws):
        if fields.name("recipe_line_number"):
            step = _step(fields, failed_line)
            steps[step.name] = _joined(steps[step.name], step) if step.name in steps else step
    return list(steps.values())


def _step(fields: Fields, failed_line: str) -> Step:
    number, stat = fields.name("recipe_line_number").strip()[:9], fields.object("line_stat")
    words = [word for name in ("adapter_name", "adapter_operation") if (word := _word(fields.text(name)))]
    failed = number == failed_line or any(
        bytes(raw) not in NO_ERROR for raw in fields.raws("error", "error_descriptor")
    )
    total = parse_vendor_duration(stat.scalar("total"))
    return Step(
        name=f"{number} {'/'.join(words)}".strip(),
        result=Result.FAILURE if failed else Result.SUCCESS,
        duration=seconds_between(stat.time("started_at"), stat.time("completed_at")) if total is None else total,
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
    """Return the job of a recipe. `url`: link to the recipe."""
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
    """Return the job ID of a recipe."""
    # The vendor does not document that a recipe's ID is unique among customers.
    return f"{customer_id}/{recipe_id}" if customer_id else recipe_id


def split_job_id(job_id: str) -> tuple[str, str]:
    """Return the IDs of the customer and the recipe of a job ID."""
    customer_id, _, recipe_id = job_id.rpartition("/")
    return customer_id, recipe_id


def to_run(row: WorkatoJob, job_id: str, statuses: StatusTable) -> Run:
    """Return the run of a row."""
    result, state, unmapped = _meaning(row, statuses)
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


def _meaning(row: WorkatoJob, statuses: StatusTable) -> Meaning:
    """Return the meaning of a row: that of its status if it is known, otherwise that of its error flag and end."""
    ended = row.completed is not None
    if row.status:
        meaning = look_up(row.status, statuses, ended=ended)
    else:
        meaning = Meaning(result=Result.SUCCESS) if ended else Meaning(state=State.EXECUTING)
    is_known = bool(row.status) and not meaning.unmapped
    return meaning._replace(result=Result.FAILURE, state=None) if row.is_error and not is_known else meaning


def problems_of(row: WorkatoJob, run: Run, now: float) -> Iterator[ValueProblem]:
    """Yield the unreadable or implausible values of a row."""
    yield from row.problems
    if run.end is not None and run.end > now + FUTURE_MARGIN:
        yield "end of a run is in the future", f"{run.end - now:.0f}s ahead"
