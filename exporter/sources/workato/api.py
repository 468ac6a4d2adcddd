"""Workato's API: its paths, and parsers of its responses. Titles, inputs and outputs are never decoded.

Workato's words differ from the exporter's: its recipes are jobs, its jobs are runs, and lines of recipes are steps.
Parsers raise DecodeError for a body that is not JSON, and SchemaError for a body of another shape.
"""

import re
from collections.abc import Sequence

import msgspec

from exporter.errors import SchemaError
from exporter.model import FAILING, Job, Result, Run, State, Step, one_row_per_run
from exporter.sources.payload import MAX_WORD_LENGTH, Fields, Scalar, decode_rows, usable
from exporter.sources.rest import Meaning, StatusTable, look_up, seconds_between
from exporter.times import parse_vendor_duration

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


def parse_jobs(body: bytes, job_id: str, statuses: StatusTable, *, first: bool = True) -> tuple[list[Run], int]:
    """Return the runs of a page, one row per run, and the number of rows that are not jobs.

    Raises SchemaError if the first page has rows, but no jobs.
    """
    raws = decode_rows(body, ("items", "result", "data"))
    runs = usable(raws, lambda raw: _run(Fields.of(raw), job_id, statuses), "a job", required=first)
    return one_row_per_run(runs), len(raws) - len(runs)


def parse_total(body: bytes) -> int | None:
    """Return the number of jobs that match a list's filter; None if the response does not have it."""
    try:
        return _total(Fields.of_body(body).scalar("job_scope_count"))
    except SchemaError:
        return None


def parse_job(body: bytes, job_id: str, run_id: str, statuses: StatusTable) -> tuple[Run, list[Step]]:
    """Return a run and its steps: one per line of the recipe that ran."""
    fields = Fields.of_body(body)
    run = _run(fields, job_id, statuses)
    if run is None or run_id not in (run.run_id, fields.text("handle")):
        raise SchemaError("the response is another job")
    failed_line = fields.object("error_parts").text("line_number")
    return msgspec.structs.replace(run, run_id=run_id), _steps(fields.rows("lines") or [], failed_line)


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


def _run(fields: Fields, job_id: str, statuses: StatusTable) -> Run | None:
    run_id = fields.identity("id", "handle")
    if not run_id:
        return None
    start, end = fields.time("started_at"), fields.time("completed_at")
    result, state, unmapped = _meaning(fields, statuses, ended=end is not None)
    if state is State.EXECUTING and start is None:
        state = State.PENDING
    end = None if result is None else end
    master = fields.text("master_job_id")
    is_repeat = fields.flag("is_repeat") is True or master not in ("", run_id, fields.text("handle"))
    return Run(
        run_id=run_id,
        job_id=job_id,
        result=result,
        state=state,
        unmapped=unmapped,
        start=start,
        end=end,
        duration=seconds_between(start, end),
        retries=int(is_repeat),
        recovered=is_repeat and result is Result.SUCCESS,
        error_type=_error_type(fields) if result in FAILING else "",
    )


def _meaning(fields: Fields, statuses: StatusTable, *, ended: bool) -> Meaning:
    """Return the meaning of a known status; otherwise that of the error flag and the end."""
    status = fields.text("status").strip()
    if status:
        meaning = look_up(status, statuses, ended=ended)
    else:
        meaning = Meaning(result=Result.SUCCESS) if ended else Meaning(state=State.EXECUTING)
    if fields.flag("is_error") is True and (meaning.unmapped or not status):
        return meaning._replace(result=Result.FAILURE, state=None)
    return meaning


def _error_type(fields: Fields) -> str:
    parts = fields.object("error_parts")
    default = POLL_ERROR if fields.flag("is_poll_error") is True else ""
    return _word(parts.text("error_type")) or _word(parts.text("adapter")) or default


def _word(value: str) -> str:
    return value if WORD.fullmatch(value) else ""


def _steps(raws: Sequence[msgspec.Raw], failed_line: str) -> list[Step]:
    # A line in a loop appears once per iteration. All iterations are one step with their total duration. The step has
    # failed if one iteration has failed.
    iterations: dict[str, list[Step]] = {}
    for fields in map(Fields.of, raws):
        if fields.name("recipe_line_number"):
            step = _step(fields, failed_line)
            iterations.setdefault(step.name, []).append(step)
    return [_joined(steps) for steps in iterations.values()]


def _joined(steps: Sequence[Step]) -> Step:
    durations = [step.duration for step in steps if step.duration is not None]
    failed = any(step.result is Result.FAILURE for step in steps)
    return Step(
        name=steps[0].name,
        result=Result.FAILURE if failed else Result.SUCCESS,
        duration=sum(durations) if durations else None,
    )


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
