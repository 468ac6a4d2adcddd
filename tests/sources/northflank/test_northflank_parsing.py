import json
from pathlib import Path

import msgspec
import pytest

from exporter.errors import DecodeError, SchemaError
from exporter.model import Job, Result, Run, State
from exporter.sources.northflank.api import (
    RUN,
    STATUSES,
    JobSchedule,
    parse_job,
    parse_page,
    parse_project,
    parse_run,
    parse_schedule,
    to_run,
)
from exporter.sources.rest import path, status_table

SAMPLE = (Path(__file__).parent / "payloads" / "job_runs.json").read_bytes()
"""The answer that the vendor's documentation prints, whole."""
START, END = 1607428028.0, 1607428328.0
TABLE = status_table(STATUSES, {})
ROW = json.loads(SAMPLE)["data"]["runs"][0]


def raw(value) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value).encode())


def run_of(table=TABLE, without=(), **changes) -> Run:
    fields = {key: value for key, value in {**ROW, **changes}.items() if key not in without}
    run = to_run(raw(fields), "p/j", table)
    assert run is not None
    return run


def test_the_documented_response_is_parsed():
    page = parse_page(SAMPLE, "runs")
    assert (page.more, page.cursor) == (False, "")
    assert [to_run(row, "p/j", TABLE) for row in page.rows] == [
        Run(
            run_id="d34582a4-35bd-4c71-8e7c-e36999b88723",
            job_id="p/j",
            result=Result.SUCCESS,
            start=START,
            end=END,
            duration=300.0,
        )
    ]


@pytest.mark.parametrize(
    ("status", "result", "state"),
    [
        ("SUCCESS", Result.SUCCESS, None),
        ("FAILED", Result.FAILURE, None),
        ("failed", Result.FAILURE, None),
        ("RUNNING", None, State.EXECUTING),
    ],
)
def test_the_status_decides_the_state_and_result(status, result, state):
    run = run_of(status=status)
    assert (run.result, run.state, run.unmapped) == (result, state, "")


@pytest.mark.parametrize("count", ["active", "succeeded", "failed", "completions"])
@pytest.mark.parametrize("number", [0, 1, 7])
def test_the_attempt_counts_do_not_change_the_state(count, number):
    assert run_of(**{count: number}).result is Result.SUCCESS
    assert run_of(status="RUNNING", concluded=False, **{count: number}).state is State.EXECUTING
    assert run_of(status="FAILED", **{count: number}).result is Result.FAILURE


def test_the_status_takes_precedence_over_concluded():
    assert run_of(status="FAILED", concluded=False).result is Result.FAILURE
    assert run_of(status="RUNNING", concluded=True).state is State.EXECUTING


def test_an_active_run_has_no_end_even_if_its_end_field_is_set():
    run = run_of(status="RUNNING", concluded=False)
    assert (run.start, run.end, run.duration) == (START, None, None)


@pytest.mark.parametrize("end", [{"concludedAt": None}, {"concludedAt": ""}, {"concludedAt": "soon"}, {}])
def test_a_completed_run_may_have_no_end(end):
    run = run_of(without=["concludedAt"] if not end else [], **end)
    assert (run.result, run.start, run.end, run.duration) == (Result.SUCCESS, START, None, None)


@pytest.mark.parametrize(
    ("fields", "result"),
    [
        ({"concluded": False, "concludedAt": None}, None),
        ({"concluded": True, "concludedAt": None}, Result.UNKNOWN),
        ({"concluded": False}, Result.UNKNOWN),
    ],
)
def test_a_run_of_unknown_status_is_open_unless_concluded_or_ended(fields, result):
    run = run_of(status="ABORTED", **fields)
    assert (run.result, run.state, run.unmapped) == (result, None, "ABORTED")


def test_a_row_without_a_status_is_unmapped():
    assert run_of(status=None, concluded=False, concludedAt="").unmapped == "absent"


def test_a_status_map_adds_a_status():
    run = run_of(status_table(STATUSES, {"Aborted": Result.CANCELLATION}), status="ABORTED")
    assert (run.result, run.unmapped) == (Result.CANCELLATION, "")


@pytest.mark.parametrize(
    ("status", "failed", "limit", "retries", "recovered"),
    [
        ("SUCCESS", 0, 3, 0, False),
        ("SUCCESS", 2, 3, 2, True),
        ("SUCCESS", 9, 3, 3, True),
        ("SUCCESS", 1, 0, 0, False),
        ("SUCCESS", 2.0, None, 2, True),
        ("FAILED", 0, 3, 0, False),
        ("FAILED", 1, 3, 0, False),
        ("FAILED", 4, 3, 3, False),
        ("FAILED", "x", 3, 0, False),
        ("FAILED", -5, 3, 0, False),
        ("RUNNING", 2, 3, 0, False),
    ],
)
def test_retries_follow_from_failed_attempts_and_never_exceed_what_the_job_may(
    status, failed, limit, retries, recovered
):
    run = run_of(status=status, failed=failed, backoffLimit=limit)
    assert (run.retries, run.recovered) == (retries, recovered)


@pytest.mark.parametrize("bad", [None, 5, "x", [], {}, {"id": ""}, {"id": None}, {"runName": "x"}])
def test_a_row_that_is_not_a_run_is_skipped(bad):
    assert to_run(raw(bad), "p/j", TABLE) is None


@pytest.mark.parametrize(
    "body", [b"[]", b"{}", b'{"data": null}', b'{"data": {"runs": 5}}', b'{"error": {"status": 404}}']
)
def test_a_page_of_another_shape_is_a_schema_error(body):
    with pytest.raises(SchemaError):
        parse_page(body, "runs")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data": {', b"\xff"])
def test_a_body_that_is_not_json_is_a_decode_error(body):
    with pytest.raises(DecodeError):
        parse_page(body, "runs")


@pytest.mark.parametrize(
    ("pagination", "more", "cursor"),
    [
        ({"hasNextPage": True, "cursor": "c", "count": 1}, True, "c"),
        ({"hasNextPage": True}, True, ""),
        ({"hasNextPage": False, "cursor": "c"}, False, "c"),
        ({"hasNextPage": "yes", "cursor": None}, False, ""),
        ({"hasNextPage": "yes", "cursor": "c"}, True, "c"),
        ({"cursor": "c"}, True, "c"),
        (None, False, ""),
    ],
)
def test_pagination_is_parsed_tolerantly(pagination, more, cursor):
    page = parse_page(json.dumps({"data": {"runs": []}, "pagination": pagination}).encode(), "runs")
    assert (page.more, page.cursor) == (more, cursor)


def test_a_run_by_id_is_parsed_like_a_listed_one():
    assert parse_run(json.dumps({"data": ROW}).encode(), "p/j", TABLE) == run_of()
    with pytest.raises(SchemaError):
        parse_run(b'{"data": {"status": "SUCCESS"}}', "p/j", TABLE)


@pytest.mark.parametrize(
    ("fields", "enabled"),
    [
        ({"jobType": "cron"}, True),
        ({"jobType": "cron", "suspended": False}, True),
        ({"jobType": "cron", "suspended": True}, False),
        ({"jobType": "manual"}, None),
        ({"jobType": "manual", "suspended": True}, False),
        ({}, None),
    ],
)
def test_a_job_with_a_schedule_is_enabled_unless_suspended(fields, enabled):
    row = parse_job(raw({"id": "daily", "name": "Daily load", "projectId": "shop", **fields}), "shop")
    assert row is not None
    assert row.job(JobSchedule("0 3 * * *", "UTC")) == Job(
        job_id="shop/daily",
        name="Daily load",
        project="shop",
        scope="shop",
        schedule="0 3 * * *",
        timezone="UTC",
        enabled=enabled,
    )


@pytest.mark.parametrize("fields", [{}, {"name": ""}, {"name": " "}])
def test_a_job_without_a_name_is_called_by_its_id(fields):
    row = parse_job(raw({"id": "daily", **fields}), "shop")
    assert row is not None
    assert row.name == "daily"
    assert parse_job(raw({"name": "x"}), "shop") is None


def test_a_project_is_known_by_its_id():
    assert parse_project(raw({"id": "shop", "name": "Shop"})) == "shop"
    assert parse_project(raw({"name": "Shop"})) == ""


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"cron": {"schedule": "0 3 * * *", "concurrencyPolicy": "Forbid"}}, JobSchedule("0 3 * * *")),
        ({"cron": {"schedule": "0 3 * * *", "timezone": "Europe/Berlin"}}, JobSchedule("0 3 * * *", "Europe/Berlin")),
        ({"backoffLimit": 1}, JobSchedule()),
        (None, JobSchedule()),
    ],
)
def test_the_schedule_is_in_the_settings(settings, schedule):
    assert parse_schedule(json.dumps({"data": {"id": "daily", "settings": settings}}).encode()) == schedule


def test_a_row_that_is_not_a_job_has_no_schedule():
    with pytest.raises(SchemaError):
        parse_schedule(b'{"data": {}}')


def test_parts_of_a_path_are_quoted():
    assert path(RUN, projectId="a/b", jobId="c d", runId="?") == "/projects/a%2Fb/jobs/c%20d/runs/%3F"
