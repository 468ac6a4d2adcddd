"""Northflank's API: its paths, and what its answers mean."""

from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from exporter.errors import SchemaError
from exporter.model import Result, Run, State
from exporter.sources.northflank.job_tracker import JobRow, Page
from exporter.sources.northflank.request_queue import Schedule
from exporter.sources.payload import ABSENT, OBJECT, ROWS, decode, decoded, identity, scalar, text
from exporter.times import parse_timestamp

PROJECTS = "/projects"
JOBS = "/projects/{projectId}/jobs"
JOB = JOBS + "/{jobId}"
RUNS = JOB + "/runs"
RUN = RUNS + "/{runId}"

STATUSES: Mapping[str, Result | State] = {
    "running": State.EXECUTING,
    "success": Result.SUCCESS,
    "failed": Result.FAILURE,
}
LONGEST_WORD = 64
NO_STATUS = "absent"
"""The unmapped status of a row that has none."""

CRON = "cron"
BOOL: msgspec.json.Decoder[bool] = msgspec.json.Decoder(bool)


class LooseRun(msgspec.Struct, kw_only=True, rename="camel"):
    """What is read of a run, not yet decoded. The counts say nothing of its state: a success may show 0 succeeded."""

    id: msgspec.Raw = ABSENT
    status: msgspec.Raw = ABSENT
    concluded: msgspec.Raw = ABSENT
    failed: msgspec.Raw = ABSENT
    backoff_limit: msgspec.Raw = ABSENT
    started_at: msgspec.Raw = ABSENT
    concluded_at: msgspec.Raw = ABSENT


class LooseJob(msgspec.Struct, kw_only=True, rename="camel"):
    """What is read of a job or a project, not yet decoded."""

    id: msgspec.Raw = ABSENT
    name: msgspec.Raw = ABSENT
    job_type: msgspec.Raw = ABSENT
    suspended: msgspec.Raw = ABSENT


LOOSE_RUN: msgspec.json.Decoder[LooseRun] = msgspec.json.Decoder(LooseRun)
LOOSE_JOB: msgspec.json.Decoder[LooseJob] = msgspec.json.Decoder(LooseJob)


def path(endpoint: str, **parts: str) -> str:
    """The path of an endpoint (template), with its parts percent-encoded."""
    return endpoint.format_map({name: quote(part, safe="") for name, part in parts.items()})


def statuses(status_map: Mapping[str, Result | State]) -> Mapping[str, Result | State]:
    """The table of status words, letter case folded: the vendor's, and over them those of the configuration."""
    return {**STATUSES, **{word.casefold(): meaning for word, meaning in status_map.items()}}


def parse_page(body: bytes, key: str) -> Page:
    """A page of the list that an answer holds as `data.<key>`.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It holds no such list.
    """
    fields = decode(body, OBJECT)
    data = decoded(fields.get("data", ABSENT), OBJECT) or {}
    rows = decoded(data.get(key, ABSENT), ROWS)
    if rows is None:
        raise SchemaError("the answer is an object without the list that was promised")
    pagination = decoded(fields.get("pagination", ABSENT), OBJECT) or {}
    more = decoded(pagination.get("hasNextPage", ABSENT), BOOL) is True
    return Page(rows=rows, more=more, cursor=text(pagination.get("cursor", ABSENT)))


def parse_project(raw: msgspec.Raw) -> str:
    """The id of a project, "" if the row is none."""
    loose = decoded(raw, LOOSE_JOB)
    return "" if loose is None else identity(loose.id)


def parse_job(raw: msgspec.Raw, project: str) -> JobRow | None:
    """A job of a project's list, None if the row is none. A job with a schedule is enabled unless suspended."""
    loose = decoded(raw, LOOSE_JOB)
    slug = "" if loose is None else identity(loose.id)
    if loose is None or not slug:
        return None
    cron = text(loose.job_type).casefold() == CRON
    suspended = decoded(loose.suspended, BOOL)
    if cron and suspended is None:
        suspended = False
    return JobRow(
        project=project,
        slug=slug,
        name=text(loose.name) or slug,
        cron=cron,
        enabled=None if suspended is None else not suspended,
    )


def parse_schedule(body: bytes) -> Schedule:
    """The schedule in a job's settings.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not a job.
    """
    data = decoded(decode(body, OBJECT).get("data", ABSENT), OBJECT)
    if data is None or not text(data.get("id", ABSENT)):
        raise SchemaError("the answer is not a job: it has no id")
    settings = decoded(data.get("settings", ABSENT), OBJECT) or {}
    cron = decoded(settings.get("cron", ABSENT), OBJECT) or {}
    zone = text(cron.get("timezone", ABSENT), cron.get("timeZone", ABSENT))
    return Schedule(text(cron.get("schedule", ABSENT)), zone)


def parse_run(body: bytes, job_id: str, status_map: Mapping[str, Result | State]) -> Run:
    """One run.

    Raises:
        DecodeError: The body is not JSON.
        SchemaError: It is not a run.
    """
    run = to_run(decode(body, OBJECT).get("data", ABSENT), job_id, status_map)
    if run is None:
        raise SchemaError("the answer is not a run: it has no id")
    return run


def to_run(raw: msgspec.Raw, job_id: str, status_map: Mapping[str, Result | State]) -> Run | None:
    """The run of a row, None if it has no id; `status_map` is the table made by `statuses`.

    The status decides. Where its word is in no table, a run that is concluded or has an end has ended as unknown. An
    ended run may lack its end; it then has no duration either.
    """
    loose = decoded(raw, LOOSE_RUN)
    run_id = "" if loose is None else identity(loose.id)
    if loose is None or not run_id:
        return None
    word = text(loose.status).strip()[:LONGEST_WORD]
    meaning = status_map.get(word.casefold())
    start, end = parse_timestamp(scalar(loose.started_at)), parse_timestamp(scalar(loose.concluded_at))
    unmapped = "" if meaning is not None else word or NO_STATUS
    if meaning is None and (end is not None or decoded(loose.concluded, BOOL) is True):
        meaning = Result.UNKNOWN
    if not isinstance(meaning, Result):
        return Run(run_id=run_id, job_id=job_id, state=meaning, unmapped=unmapped, start=start)
    retries = _retries(loose, meaning)
    return Run(
        run_id=run_id,
        job_id=job_id,
        result=meaning,
        unmapped=unmapped,
        start=start,
        end=end,
        duration=None if start is None or end is None else max(0.0, end - start),
        retries=retries,
        recovered=meaning is Result.SUCCESS and retries > 0,
    )


def _retries(loose: LooseRun, result: Result) -> int:
    """Attempts beyond the first: of a success every failed one was followed by another, else all but the last.

    Never more than the job may retry, for the vendor does not say that `failed` counts attempts alone.
    """
    failed, limit = _count(loose.failed), _count(loose.backoff_limit)
    retries = max(0, (failed or 0) - (result is not Result.SUCCESS))
    return retries if limit is None else min(retries, limit)


def _count(raw: msgspec.Raw) -> int | None:
    """A whole number that is not negative."""
    number = scalar(raw)
    return int(number) if isinstance(number, int | float) and 0 <= number < 2**31 else None
