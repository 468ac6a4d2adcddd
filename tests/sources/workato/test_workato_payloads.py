import json
from pathlib import Path

import pytest

from exporter.errors import DecodeError, SchemaError
from exporter.model import Job, Result, Run, State, Step
from exporter.sources.rest import path, status_table
from exporter.sources.workato.api import (
    STATUSES,
    Customer,
    Recipe,
    parse_customers,
    parse_error,
    parse_job,
    parse_jobs,
    parse_recipes,
    parse_total,
    split_job_id,
    to_job,
)

PAYLOADS = Path(__file__).parent / "payloads"
TABLE = status_table(STATUSES, {})
START = 1693473911.0
"""2023-08-31T02:25:11-07:00."""
JOB = {"id": "j-1", "started_at": "2023-08-31T02:25:11.000-07:00", "completed_at": "2023-08-31T02:25:41.000-07:00"}


def runs_of(body: bytes) -> tuple[list[Run], int]:
    return parse_jobs(body, "7/8", TABLE)


LISTS = (parse_customers, parse_recipes, runs_of)


def body_of(value) -> bytes:
    return json.dumps(value).encode()


def run_of(table=TABLE, **fields) -> Run:
    (run,), invalid = parse_jobs(body_of({"items": [{**JOB, **fields}]}), "7/8", table)
    assert invalid == 0
    return run


def steps_of(*lines, **fields) -> list[Step]:
    return parse_job(body_of({**JOB, "lines": lines, **fields}), "7/8", "j-1", TABLE)[1]


def test_the_documented_list_is_parsed():
    body = (PAYLOADS / "jobs.json").read_bytes()
    runs, invalid = parse_jobs(body, "7/8", TABLE)
    assert runs == [
        Run(run_id="j-AJMfQh8c-hsCXcs", job_id="7/8", result=Result.SUCCESS, start=START, end=START, duration=0.0),
        Run(
            run_id="j-AJMfNar9-L96nTm",
            job_id="7/8",
            result=Result.SUCCESS,
            start=START - 182,
            end=START - 182,
            duration=0.0,
        ),
    ]
    assert (invalid, parse_total(body)) == (0, 2)


def test_the_documented_detail_is_parsed():
    run, steps = parse_job((PAYLOADS / "job.json").read_bytes(), "7/8", "j-AJMfQh8c-hsCXcs", TABLE)
    assert (run.result, run.start, run.end, run.retries) == (Result.SUCCESS, START + 0.519, START + 0.599, 0)
    assert steps == [
        Step(name="0 workato_api_platform/receive_request", result=Result.SUCCESS, duration=0.013507305964594707),
        Step(name="1 workato_api_platform/return_response", result=Result.SUCCESS, duration=0.0006757620139978826),
    ]


def test_parsed_responses_have_no_title_and_no_data():
    detail = parse_job((PAYLOADS / "job.json").read_bytes(), "7/8", "j-AJMfQh8c-hsCXcs", TABLE)
    runs = parse_jobs((PAYLOADS / "jobs.json").read_bytes(), "7/8", TABLE)
    assert not [word for word in ("Calling", "129.1.1.1", "profile", "12345") if word in repr((detail, runs))]


@pytest.mark.parametrize(
    ("fields", "result", "state"),
    [
        ({"status": "succeeded"}, Result.SUCCESS, None),
        ({"status": "failed"}, Result.FAILURE, None),
        ({"status": "pending", "completed_at": None}, None, State.EXECUTING),
        ({"status": "pending", "completed_at": None, "started_at": None}, None, State.PENDING),
        ({"status": "FAILED"}, Result.FAILURE, None),
        ({}, Result.SUCCESS, None),
        ({"is_error": True}, Result.FAILURE, None),
        ({"status": None, "is_error": True}, Result.FAILURE, None),
        ({"completed_at": None}, None, State.EXECUTING),
        ({"is_error": "yes"}, Result.SUCCESS, None),
    ],
)
def test_the_status_or_else_the_error_flag_and_the_end_decide(fields, result, state):
    run = run_of(**fields)
    assert (run.result, run.state, run.unmapped) == (result, state, "")


def test_an_unmapped_status_completes_as_unknown_if_there_is_an_end():
    ended, open_run = run_of(status="paused"), run_of(status="paused", completed_at=None)
    assert (ended.result, ended.unmapped) == (Result.UNKNOWN, "paused")
    assert (open_run.result, open_run.state, open_run.unmapped) == (None, None, "paused")


@pytest.mark.parametrize("completed", ["2023-08-31T02:25:11.000-07:00", None])
def test_an_unmapped_status_with_the_error_flag_is_a_failure(completed):
    run = run_of(status="error", is_error=True, completed_at=completed)
    assert (run.result, run.unmapped) == (Result.FAILURE, "error")


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("canceled", Result.CANCELLATION),
        ("Cancelled", Result.CANCELLATION),
        ("Canceling", State.EXECUTING),
        ("CANCELLING", State.EXECUTING),
        ("Processing", State.EXECUTING),
        ("running", State.EXECUTING),
        (" Pending ", State.EXECUTING),
        ("SUCCEEDED", Result.SUCCESS),
    ],
)
def test_statuses_of_the_vendor_are_case_insensitive(word, meaning):
    run = run_of(status=word)
    assert (run.result or run.state, run.unmapped) == (meaning, "")


def test_an_unparsable_time_is_absent():
    run = run_of(started_at="soon")
    assert (run.start, run.end, run.duration) == (None, START + 30, None)


@pytest.mark.parametrize(
    ("stat", "duration"),
    [
        ({"total": 0.5}, 0.5),
        ({"started_at": "2023-08-31T02:25:11.500-07:00", "completed_at": "2023-08-31T02:25:14-07:00"}, 2.5),
        ({"total": None, "started_at": 1693473911, "completed_at": 1693473913}, 2.0),
        ({"total": 1, "started_at": 1693473911, "completed_at": 1693473913}, 1.0),
        ({"started_at": 1693473911}, None),
        ({"started_at": 1693473911, "completed_at": 1693473901}, 0.0),
        ({}, None),
    ],
)
def test_a_line_has_its_total_duration_or_that_between_its_times(stat, duration):
    lines = [{"recipe_line_number": 0, "adapter_name": "salesforce", "line_stat": stat}]
    assert steps_of(*lines)[0].duration == duration


def test_a_status_map_adds_new_statuses():
    assert (
        run_of(status_table(STATUSES, {"Paused": State.PENDING}), status="paused", completed_at=None).state
        is State.PENDING
    )


@pytest.mark.parametrize(
    "time", ["2023-08-31T02:25:11.000-07:00", "2023-08-31T01:25:11-08:00", "2023-08-31T09:25:11Z", START]
)
def test_times_may_have_any_utc_offset(time):
    assert run_of(started_at=time).start == START


def test_a_job_that_ended_before_it_started_took_no_time():
    assert run_of(completed_at="2023-08-31T02:25:10.000-07:00").duration == 0.0


@pytest.mark.parametrize("fields", [{"is_repeat": True}, {"master_job_id": "j-0"}])
def test_a_repeat_is_one_retry_and_recovered_if_it_succeeded(fields):
    well, badly = run_of(**fields), run_of(is_error=True, **fields)
    assert (well.retries, well.recovered) == (1, True)
    assert (badly.retries, badly.recovered) == (1, False)


@pytest.mark.parametrize("fields", [{}, {"master_job_id": None}, {"master_job_id": "j-1"}, {"is_repeat": False}])
def test_a_job_that_is_its_own_master_is_no_repeat(fields):
    assert run_of(**fields).retries == 0


@pytest.mark.parametrize(
    ("fields", "error_type"),
    [
        ({"error_parts": {"error_type": "Timeout", "adapter": "salesforce"}}, "Timeout"),
        ({"error_parts": {"adapter": "salesforce"}}, "salesforce"),
        ({"error_parts": {"error_type": "Order 17 of Ms Jones failed", "adapter": "rest"}}, "rest"),
        ({"error_parts": {"error_type": "x" * 65}}, ""),
        ({"error_parts": None}, ""),
        ({"error_parts": "broken", "is_poll_error": True}, "poll_error"),
        ({"error": "401 for ms.jones@example.com", "title": "Ms Jones"}, ""),
        ({"error": {"message": "Ms Jones"}}, ""),
    ],
)
def test_an_error_type_is_a_plain_word_and_never_a_message(fields, error_type):
    assert run_of(is_error=True, **fields).error_type == error_type


def test_a_successful_job_has_no_error_type():
    assert run_of(error_parts={"error_type": "Timeout"}).error_type == ""


def test_a_failed_line_has_an_error_or_the_number_that_the_job_names():
    lines = [{"recipe_line_number": number, "adapter_name": "a", "adapter_operation": "b"} for number in range(3)]
    by_error = steps_of(lines[0], {**lines[1], "error": "x"}, {**lines[2], "error_descriptor": {"x": 1}})
    by_number = steps_of(*lines, error_parts={"line_number": 1})
    assert [step.result for step in by_error] == [Result.SUCCESS, Result.FAILURE, Result.FAILURE]
    assert [step.result for step in by_number] == [Result.SUCCESS, Result.FAILURE, Result.SUCCESS]


@pytest.mark.parametrize("error", [None, "", {}, [], False])
def test_an_empty_error_is_parsed_as_none(error):
    assert steps_of({"recipe_line_number": 1, "error": error})[0].result is Result.SUCCESS


def test_the_iterations_of_a_loop_are_one_step():
    line = {"recipe_line_number": 4, "adapter_name": "a", "adapter_operation": "b"}
    turns = [{**line, "line_stat": {"total": 1.5}}, {**line, "line_stat": {"total": 2.0}, "error": "x"}, line]
    assert steps_of(*turns) == [Step(name="4 a/b", result=Result.FAILURE, duration=3.5)]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ({"recipe_line_number": 1}, "1"),
        ({"recipe_line_number": 1, "adapter_name": None, "adapter_operation": "if"}, "1 if"),
        ({"recipe_line_number": 1, "adapter_name": "Ms Jones", "adapter_operation": "x" * 65}, "1"),
    ],
)
def test_a_step_is_named_by_line_number_and_plain_words(line, name):
    assert [step.name for step in steps_of(line)] == [name]


@pytest.mark.parametrize("lines", [None, "x", [None, 5, {}, {"adapter_name": "a"}, {"recipe_line_number": " "}]])
def test_an_invalid_line_is_skipped(lines):
    assert parse_job(body_of({**JOB, "lines": lines}), "7/8", "j-1", TABLE)[1] == []


def test_a_different_job_than_the_requested_one_is_a_schema_error():
    with pytest.raises(SchemaError):
        parse_job(body_of(JOB), "7/8", "j-2", TABLE)
    assert parse_job(body_of({**JOB, "id": 17, "handle": "j-2"}), "7/8", "j-2", TABLE)[0].run_id == "j-2"


@pytest.mark.parametrize("parse", LISTS)
@pytest.mark.parametrize("key", ["result", "items"])
def test_lists_may_be_under_either_key_or_bare(parse, key):
    rows = [{"id": 1}, {"id": 2}]
    assert parse(body_of({key: rows})) == parse(body_of(rows))
    assert parse(body_of({key: []})) == ([], 0)


@pytest.mark.parametrize("parse", LISTS)
@pytest.mark.parametrize("body", [{}, {"message": "x"}, {"items": None}, "x", [None], [{"name": "x"}]])
def test_another_shape_is_a_schema_error(parse, body):
    with pytest.raises(SchemaError):
        parse(body_of(body))


@pytest.mark.parametrize("parse", [*LISTS, lambda body: parse_job(body, "7/8", "j-1", TABLE)])
@pytest.mark.parametrize("body", [b"", b"<html>", b'{"items": [', b"\xff"])
def test_a_body_that_is_not_json_is_a_decode_error(parse, body):
    with pytest.raises(DecodeError):
        parse(body)


@pytest.mark.parametrize("number", [-1, 1.5, 2**53, 10**300])
def test_an_impossible_number_of_jobs_is_ignored(number):
    assert parse_total(body_of({"job_scope_count": number})) is None
    (recipe,), _ = parse_recipes(body_of([{"id": 1, "job_failed_count": number}]))
    assert recipe.failed is None


def test_an_invalid_row_is_counted_and_does_not_affect_others():
    runs, invalid = runs_of(body_of({"items": [JOB, None, {"title": "x"}, JOB]}))
    assert ([run.run_id for run in runs], invalid) == (["j-1"], 2)
    recipes, invalid = parse_recipes(body_of([{"id": 1}, 5]))
    assert (len(recipes), invalid) == (1, 1)


def test_a_customer_is_named_by_its_external_id_if_it_has_one():
    body = body_of({"result": [{"id": 1, "external_id": "acme"}, {"id": "2", "external_id": " "}, {"name": "x"}]})
    assert parse_customers(body) == ([Customer("1", "acme"), Customer("2", "2")], 1)


def test_a_recipe_is_a_job():
    row = {
        "id": 28904,
        "name": "Orders",
        "running": False,
        "stop_cause": "trial_expired",
        "job_succeeded_count": 2,
        "job_failed_count": 1,
        "last_run_at": "2023-08-31T02:25:11.000-07:00",
        "code": "{}",
    }
    (recipe,), _ = parse_recipes(body_of([row]))
    assert (recipe.succeeded, recipe.failed, recipe.last_run) == (2, 1, "2023-08-31T02:25:11.000-07:00")
    assert to_job(recipe, Customer("7", "acme"), "https://x/recipes/28904") == Job(
        job_id="7/28904",
        name="Orders",
        project="acme",
        scope="7",
        url="https://x/recipes/28904",
        enabled=False,
        stop_cause="trial_expired",
    )
    assert to_job(recipe, Customer("", ""), "").job_id == "28904"


def test_a_recipe_with_few_fields_is_parsed():
    (recipe,), _ = parse_recipes(body_of([{"id": "5", "name": " ", "running": "yes", "stop_cause": "by Ms Jones"}]))
    assert recipe == Recipe(
        recipe_id="5", name="", running=None, stop_cause="", succeeded=None, failed=None, last_run=""
    )
    assert to_job(recipe, Customer("", ""), "").name == "5"


def test_the_id_of_a_recipe_contains_its_customer():
    assert split_job_id("7/28904") == ("7", "28904")
    assert split_job_id("28904") == ("", "28904")


def test_ids_are_quoted_in_paths():
    assert path("/recipes/{recipe}/jobs/{job}", recipe="1/2", job="j ?#") == "/recipes/1%2F2/jobs/j%20%3F%23"


def test_an_error_text_is_a_text_or_an_object_with_a_message():
    lines = [{"recipe_line_number": 3, "error": {"message": "of the line"}}, {"recipe_line_number": 4}]
    body = body_of({**JOB, "error": "of the job", "lines": lines})
    assert [parse_error(body, name) for name in ("", "3", "4", "5")] == ["of the job", "of the line", "", ""]
