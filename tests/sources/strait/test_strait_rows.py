import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import DecodeError, SchemaError
from exporter.model import Job, Result, Run, State, Step
from exporter.sources.rest import path, status_table
from exporter.sources.strait.api import (
    STEPS,
    StraitPage,
    StraitRun,
    cursor_at,
    cursor_from,
    exact_time,
    parse_error,
    parse_job,
    parse_page,
    parse_run,
    parse_single_run,
    parse_steps,
)
from exporter.sources.strait.kinds import RUN_STATUSES, STEP_STATUSES, WORKFLOW_STATUSES

PAYLOADS = Path(__file__).parent / "payloads"
TABLE = status_table(RUN_STATUSES, {})
START = 1704067200.0
ROW = {
    "id": "r-1",
    "job_id": "j-1",
    "project_id": "p-1",
    "status": "completed",
    "attempt": 1,
    "payload": {"customer": "a person"},
    "result": [1, 2],
    "error": "a person's data",
    "created_at": "2024-01-01T00:00:00.25Z",
    "started_at": "2024-01-01T00:00:02.25Z",
    "finished_at": "2024-01-01T00:01:02.25Z",
}


def run_of(table=TABLE, **changes) -> Run:
    fields = {key: value for key, value in {**ROW, **changes}.items() if value is not ...}
    (row,) = parse_page(json.dumps([fields]).encode(), partial(parse_run, statuses=table), 100).rows
    return row.run


def page_of(body: bytes, limit: int = 100) -> StraitPage[StraitRun]:
    return parse_page(body, partial(parse_run, statuses=TABLE), limit)


def jobs_of(body: bytes, *, scope: str = "", workflow: bool = False) -> list[Job]:
    return [row.job for row in parse_page(body, partial(parse_job, scope=scope, workflow=workflow), 100).rows]


def test_a_run_of_a_real_server_is_parsed():
    assert run_of() == Run(
        run_id="r-1",
        job_id="j-1",
        result=Result.SUCCESS,
        created=START + 0.25,
        start=START + 2.25,
        end=START + 62.25,
        duration=60.0,
        queue_duration=2.0,
    )


def test_the_documented_run_is_delayed():
    run = parse_single_run((PAYLOADS / "run.json").read_bytes(), "string", TABLE).run
    assert (run.run_id, run.job_id, run.state, run.result) == ("string", "string", State.PENDING, None)
    assert run.retries == 0
    assert run.created == run.start == 1566656122.0


def test_the_documented_jobs_are_parsed():
    assert jobs_of((PAYLOADS / "jobs.json").read_bytes()) == [
        Job(
            job_id="string",
            name="string",
            project="string",
            schedule="string",
            timezone="string",
            enabled=True,
            has_steps=False,
        )
    ]


@pytest.mark.parametrize(
    ("fields", "name"), [({"slug": " ", "name": "Daily"}, "Daily"), ({"slug": "", "name": "\t"}, "j-1"), ({}, "j-1")]
)
def test_a_job_with_a_blank_slug_has_its_title_or_id_as_name(fields, name):
    (job,) = jobs_of(json.dumps([{"id": "j-1", **fields}]).encode())
    assert job.name == name


def test_the_documented_single_job_has_the_same_shape():
    assert jobs_of(b"[" + (PAYLOADS / "job.json").read_bytes() + b"]")[0].name == "string"


def test_a_parsed_row_has_no_payload_result_or_error():
    assert "person" not in repr(page_of(json.dumps([ROW]).encode()).rows)


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("delayed", State.PENDING),
        ("queued", State.PENDING),
        ("dequeued", State.PENDING),
        ("waiting", State.PENDING),
        ("paused", State.PENDING),
        ("replay_staged", State.PENDING),
        ("executing", State.EXECUTING),
        ("completed", Result.SUCCESS),
        ("failed", Result.FAILURE),
        ("dead_letter", Result.FAILURE),
        ("crashed", Result.ERROR),
        ("system_failed", Result.ERROR),
        ("timed_out", Result.TIMEOUT),
        ("canceled", Result.CANCELLATION),
        ("expired", Result.SKIP),
    ],
)
def test_each_status_is_mapped(word, meaning):
    run = run_of(status=word)
    assert (run.result or run.state) == meaning
    assert run.unmapped == ""


def test_an_expired_run_never_started():
    run = run_of(status="expired")
    assert (run.start, run.duration, run.queue_duration, run.end) == (None, None, None, START + 62.25)


def test_attempts_beyond_the_first_are_retries_and_a_success_after_them_recovered():
    assert (run_of(attempt=3).retries, run_of(attempt=3).recovered) == (2, True)
    failed = run_of(attempt=3, status="dead_letter", error_class="timeout")
    assert (failed.retries, failed.recovered, failed.error_type) == (2, False, "timeout")
    assert run_of(attempt=1).recovered is False


def test_an_impossible_number_of_attempts_is_one_attempt():
    assert [run_of(attempt=number).retries for number in (2**31, 2**63, 10**300, -1, 1.5, "2", True)] == [0] * 7


def test_a_success_has_no_error_class_of_an_earlier_attempt():
    assert run_of(attempt=2, error_class="transient").error_type == ""


@pytest.mark.parametrize("error_class", ["order 4711 of Jane failed", "jane@example.com", "x" * 41, {"a": 1}, None])
def test_an_error_class_that_is_no_plain_word_is_not_an_error_type(error_class):
    assert run_of(status="failed", error_class=error_class).error_type == ""


def test_waiting_time_comes_from_the_first_attempt_and_excludes_a_planned_delay():
    assert run_of(attempt=2).queue_duration is None
    assert run_of(scheduled_at="2024-01-01T00:00:02.0Z").queue_duration == 0.25
    assert run_of(started_at=...).queue_duration is None


def test_a_planned_start_is_exposed_while_a_run_waits_for_it():
    waiting = {"started_at": ..., "finished_at": ..., "status": "delayed"}
    assert run_of(**waiting, scheduled_at="2024-01-02T00:00:00Z").scheduled == START + 86400
    assert run_of(**waiting, next_retry_at="2024-01-01T00:10:00Z").scheduled == START + 600
    assert run_of(scheduled_at="2024-01-02T00:00:00Z").scheduled is None


def test_an_unknown_status_is_open_until_it_has_an_end():
    open_run = run_of(status="evaporating", finished_at=...)
    assert (open_run.result, open_run.state, open_run.unmapped) == (None, None, "evaporating")
    ended = run_of(status="evaporated")
    assert (ended.result, ended.unmapped, ended.end) == (Result.UNKNOWN, "evaporated", START + 62.25)


def test_a_status_map_adds_statuses():
    table = status_table(RUN_STATUSES, {"Evaporated": Result.CANCELLATION})
    assert run_of(table, status="evaporated").result is Result.CANCELLATION


@pytest.mark.parametrize("odd", [None, True, [], {"a": 1}, -5, 1e300, "soon", ""])
@pytest.mark.parametrize("field", ["attempt", "started_at", "finished_at", "created_at", "status", "error_class"])
def test_an_invalid_field_loses_only_that_field(field, odd):
    run = run_of(**{field: odd})
    assert (run.run_id, run.job_id) == ("r-1", "j-1")


def test_an_invalid_row_loses_only_that_row():
    page = page_of(json.dumps([ROW, {"id": [5]}, "x", None, {**ROW, "id": "r-2"}]).encode())
    assert ([row.id for row in page.rows], page.invalid) == (["r-1", "r-2"], 3)


@pytest.mark.parametrize(
    ("body", "rows", "cursor", "more"),
    [
        ([], 0, "", False),
        ([ROW], 1, "", False),
        ([ROW, ROW], 2, "", True),
        ({"data": None, "has_more": False}, 0, "", False),
        ({"data": [], "has_more": True, "next_cursor": "c"}, 0, "c", True),
        ({"data": [ROW], "has_more": True, "next_cursor": "c"}, 1, "c", True),
        ({"data": [ROW, ROW], "has_more": False}, 2, "", False),
        ({"data": [ROW], "next_cursor": "c"}, 1, "c", True),
    ],
)
def test_a_list_has_two_shapes_and_an_explicit_end(body, rows, cursor, more):
    page = page_of(json.dumps(body).encode(), limit=2)
    assert (len(page.rows), page.cursor, page.more) == (rows, cursor, more)


@pytest.mark.parametrize("body", [b"{}", b'{"unexpected": {}}', b"3", b'{"data": 3}', b'["x"]', b'{"data": [{}]}'])
def test_another_shape_is_never_an_empty_list(body):
    with pytest.raises(SchemaError):
        page_of(body)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[", b"\xff\xfe"])
def test_a_body_that_is_not_json_is_reported_as_such(body):
    with pytest.raises(DecodeError):
        page_of(body)


def test_a_workflow_is_a_job_whose_runs_have_steps_and_never_reopen():
    rows = (
        b'[{"id": "w-1", "slug": "nightly", "project_id": "p", "cron": "0 3 * * *", "cron_timezone": "Europe/Berlin"}]'
    )
    (job,) = jobs_of(rows, scope="workflows", workflow=True)
    assert (job.job_id, job.name, job.schedule, job.timezone) == (
        "workflow:w-1",
        "nightly",
        "0 3 * * *",
        "Europe/Berlin",
    )
    assert (job.has_steps, job.reopens) == (True, False)
    body = b'{"id": "x", "workflow_id": "w-1", "status": "compensated"}'
    assert parse_single_run(body, "x", status_table(WORKFLOW_STATUSES, {})).run.job_id == job.job_id


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("pending", State.PENDING),
        ("paused", State.PENDING),
        ("running", State.EXECUTING),
        ("compensating", State.EXECUTING),
        ("completed", Result.SUCCESS),
        ("failed", Result.FAILURE),
        ("compensated", Result.FAILURE),
        ("timed_out", Result.TIMEOUT),
        ("canceled", Result.CANCELLATION),
        ("compensation_failed", Result.ERROR),
    ],
)
def test_each_status_of_a_workflow_run_is_mapped(word, meaning):
    body = json.dumps({"id": "x", "status": word}).encode()
    run = parse_single_run(body, "x", status_table(WORKFLOW_STATUSES, {})).run
    assert (run.result or run.state) == meaning


def test_the_steps_of_a_workflow_run_are_parsed():
    rows = [
        {
            "step_ref": "load",
            "status": "completed",
            "started_at": "2024-01-01T00:00:00Z",
            "finished_at": "2024-01-01T00:00:05Z",
        },
        {
            "step_ref": "model",
            "status": "failed",
            "started_at": "2024-01-01T00:00:05Z",
            "finished_at": "2024-01-01T00:00:07Z",
        },
        {"step_ref": "publish", "status": "skipped"},
        {"step_ref": "notify", "status": "canceled"},
        {"step_ref": "audit", "status": "waiting"},
        {"step_ref": "odd", "status": "novel"},
        {"step_ref": " ", "status": "failed"},
    ]
    steps, more = parse_steps(json.dumps({"data": rows, "has_more": False}).encode(), status_table(STEP_STATUSES, {}))
    assert not more
    assert steps == [
        Step(name="load", result=Result.SUCCESS, start=START, end=START + 5, duration=5.0),
        Step(name="model", result=Result.FAILURE, start=START + 5, end=START + 7, duration=2.0),
        Step(name="publish", result=Result.SKIP),
        Step(name="notify", result=Result.CANCELLATION),
        Step(name="audit", state=State.PENDING),
        Step(name="odd"),
    ]


def test_an_error_text_is_found_on_request():
    assert parse_error(b'{"id": "r", "error": "boom"}', "").stderr == "boom"
    assert parse_error(b'{"id": "r"}', "").stderr == ""
    steps = b'{"data": [{"step_ref": "a", "error": "x"}, {"step_ref": "b", "error": "y"}], "has_more": false}'
    assert parse_error(steps, "b").stderr == "y"
    assert parse_error(steps, "c").stderr == ""


def test_ids_are_quoted_in_paths():
    assert path(STEPS, workflowRunId="a/b?c") == "/workflow-runs/a%2Fb%3Fc/steps"


def test_a_cursor_is_exact_to_the_microsecond():
    last = exact_time("2026-03-01T10:00:00.123456789Z")
    assert last == datetime(2026, 3, 1, 10, 0, 0, 123456, UTC)
    assert cursor_from(last) == "2026-03-01T10:00:00.123457Z"
    assert cursor_at(last) == "2026-03-01T10:00:00.123456Z"
    moment: Any = exact_time("2026-03-01T10:00:00.1Z")
    assert cursor_from(moment) == "2026-03-01T10:00:00.100001Z"
    assert exact_time("an opaque cursor") is None
    assert exact_time("0001-01-01T00:00:00+14:00") is exact_time("9999-12-31T23:59:59.999999-14:00") is None
    assert exact_time(None) is None


ODD = st.sampled_from([None, "", "x", "completed", "2024-01-01T00:00:00Z", True, 5, -1, 10**400, [], {}, [None]])


@given(st.dictionaries(st.sampled_from([*ROW, "workflow_id", "scheduled_at"]), ODD))
def test_any_row_is_a_run_or_dropped(fields):
    try:
        page = page_of(json.dumps([fields]).encode())
    except SchemaError:
        assert not isinstance(fields.get("id"), str) or not fields["id"]
        return
    for row in page.rows:
        assert row.run.run_id == str(fields["id"])


@pytest.mark.parametrize(
    ("changes", "result", "error_type", "retries"),
    [
        ({"attempt": 1, "started_at": None}, Result.SKIP, "", 0),
        ({"attempt": 2, "started_at": None}, Result.FAILURE, "expired", 1),
        ({"attempt": 3, "error_class": "server"}, Result.FAILURE, "expired", 2),
        ({"attempt": "3"}, Result.SKIP, "", 0),
    ],
)
def test_a_run_that_expired_between_its_attempts_failed(changes, result, error_type, retries):
    run = run_of(status="expired", **changes)
    assert (run.result, run.error_type, run.retries) == (result, error_type, retries)


def test_a_status_map_can_change_expired():
    table = status_table(RUN_STATUSES, {"expired": Result.CANCELLATION})
    assert run_of(table, status="expired", attempt=2).result is Result.CANCELLATION


@pytest.mark.parametrize(
    ("fields", "enabled", "stop_cause"),
    [
        ({"enabled": True, "paused": False}, True, ""),
        ({"enabled": True, "paused": True, "pause_reason": "quota_exceeded"}, False, "quota_exceeded"),
        ({"enabled": True, "paused": True, "pause_reason": "because Mr. Smith requested"}, False, ""),
        ({"enabled": True, "paused": True}, False, ""),
        ({"enabled": True, "paused": False, "pause_reason": "old"}, True, ""),
        ({"enabled": False, "paused": False}, False, ""),
        ({"paused": True}, False, ""),
        ({"enabled": True, "paused": "yes"}, True, ""),
        ({}, None, ""),
    ],
)
def test_a_paused_job_is_disabled_with_a_short_reason(fields, enabled, stop_cause):
    row = {"id": "j", "slug": "daily", "cron": "0 3 * * *", **fields}
    (job,) = jobs_of(json.dumps([row]).encode())
    assert (job.enabled, job.stop_cause) == (enabled, stop_cause)
