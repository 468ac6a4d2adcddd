"""Shapes, statuses and units that the API's documentation allows. None of them has been seen yet."""

import json

import pytest

from exporter.errors import SchemaError
from exporter.model import FUTURE_MARGIN, Result, State
from exporter.sources.rest import shape_of, status_table
from exporter.sources.snowplow.api import STATUSES, in_milliseconds, parse_rows, problems_of, to_run
from exporter.sources.snowplow.details import parse_run, parse_steps

START = 1704067200.0
NOW = START + 1000
TABLE = status_table(STATUSES, {})
ROW = {
    "runId": "r1",
    "jobName": "webmodel",
    "environment": "prod",
    "state": "FAILED",
    "startTime": "2024-01-01T00:00:00Z",
    "duration": "PT1M",
}
STEPS = [{"name": "load", "state": "FAILED"}]


def row_of(**changes):
    (row,) = parse_rows(json.dumps([{**ROW, **changes}]).encode(), {}).fresh
    return row


def run_of(now=NOW, **changes):
    return to_run(row_of(**changes), TABLE, now)


@pytest.mark.parametrize(
    "body",
    [
        {**ROW, "steps": STEPS},
        [{**ROW, "steps": STEPS}],
        {"run": ROW, "steps": STEPS},
        {"run": {**ROW, "steps": STEPS}},
        {"data": {**ROW, "steps": STEPS}},
        {"data": {"run": ROW, "steps": STEPS}},
        {"data": [{**ROW, "steps": STEPS}]},
        {"job": {**ROW, "steps": STEPS}},
        {"item": ROW, "steps": {"items": STEPS}},
        {"jobRun": ROW, "taskStates": [{"taskName": "load", "taskState": "FAILED"}]},
        {"id": "request-1", "run": {**ROW, "steps": STEPS}},
        {**ROW, "job": {"id": "job-1", "name": "webmodel"}, "steps": STEPS},
    ],
    ids=lambda body: json.dumps(body).replace(json.dumps(ROW)[1:-1], "…")[:60],
)
def test_a_run_may_be_wrapped_and_its_steps_inside_or_next_to_it(body):
    row, steps = parse_run(json.dumps(body).encode(), TABLE, "r1")
    assert to_run(row, TABLE) == run_of()
    assert [(step.name, step.result) for step in steps or ()] == [("load", Result.FAILURE)]


@pytest.mark.parametrize("body", [{"run": {**ROW, "runId": "r2"}}, [{**ROW, "runId": "r2"}], {"id": "r2"}])
def test_a_different_run_than_the_requested_one_is_an_error(body):
    with pytest.raises(SchemaError, match="another run"):
        parse_run(json.dumps(body).encode(), TABLE, "r1")


@pytest.mark.parametrize("body", [[], {"run": None}, {"run": []}, {"run": {}}, {"data": {"message": "no such run"}}])
def test_a_wrapper_without_a_run_is_an_error(body):
    with pytest.raises(SchemaError):
        parse_run(json.dumps(body).encode(), TABLE, "r1")


@pytest.mark.parametrize(
    "wrapped",
    [{"content": [ROW]}, {"job_runs": [ROW]}, {"data": {"Runs": [ROW]}}, {"data": {"items": []}, "runs": [ROW]}],
)
def test_a_list_may_be_under_content_or_wrapped_twice(wrapped):
    assert [row.run_id for row in parse_rows(json.dumps(wrapped).encode(), {}).fresh] == ["r1"]


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("runId", "id"),
        ("jobName", "name"),
        ("state", "status"),
        ("startTime", "startedAt"),
        ("duration", "runDuration"),
    ],
)
@pytest.mark.parametrize("empty", ["", None])
def test_another_name_of_a_field_is_used_if_the_usual_one_is_empty(field, other, empty):
    assert row_of(**{field: empty, other: ROW[field]}) == row_of()


@pytest.mark.parametrize("wrapped", [{"data": {"data": {"runs": [ROW]}}}, {"data": {"message": "x"}}, {"list": [ROW]}])
def test_an_unknown_wrapper_is_an_error(wrapped):
    with pytest.raises(SchemaError):
        parse_rows(json.dumps(wrapped).encode(), {})


def test_steps_may_be_called_task_states():
    assert [step.name for step in parse_steps(json.dumps({"taskStates": STEPS}).encode(), TABLE)] == ["load"]


def test_the_completed_one_of_two_rows_of_a_step_is_used_in_any_order():
    rows = [{"name": "load", "state": "RUNNING"}, {"name": "load", "state": "FAILED"}]
    for order in (rows, rows[::-1]):
        assert [step.result for step in parse_steps(json.dumps(order).encode(), TABLE)] == [Result.FAILURE]


SNAKE = {
    "run_id": "r1",
    "job_name": "webmodel",
    "environment": "prod",
    "state": "FAILED",
    "start_time": "2024-01-01T00:00:00Z",
    "duration": "PT1M",
}


@pytest.mark.parametrize(
    "row",
    [
        SNAKE,
        {key.upper(): value for key, value in SNAKE.items()},
        {**{key: value for key, value in ROW.items() if key != "startTime"}, "start_time": ROW["startTime"]},
        {**{key: value for key, value in ROW.items() if key != "duration"}, "end_time": "2024-01-01T00:01:00Z"},
        {**{key: value for key, value in ROW.items() if key != "duration"}, "RunDuration": "PT1M"},
    ],
)
def test_field_names_may_have_any_letter_case_and_underscores(row):
    (read,) = parse_rows(json.dumps([row]).encode(), {}).fresh
    assert to_run(read, TABLE) == run_of()


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("SUCCESS", Result.SUCCESS),
        ("COMPLETED", Result.SUCCESS),
        ("FAILURE", Result.FAILURE),
        ("ERROR", Result.FAILURE),
        ("ABORTED", Result.CANCELLATION),
        ("CANCELLED", Result.CANCELLATION),
        ("canceled", Result.CANCELLATION),
        ("TIMED_OUT", Result.TIMEOUT),
        ("Timed out", Result.TIMEOUT),
        ("timed-out", Result.TIMEOUT),
        ("TimedOut", Result.TIMEOUT),
        ("QUEUED", State.PENDING),
        ("PENDING", State.PENDING),
        ("IN_PROGRESS", State.EXECUTING),
    ],
)
def test_unambiguous_statuses_are_mapped(word, meaning):
    run = run_of(state=word)
    assert (run.result or run.state, run.unmapped) == (meaning, "")


def test_a_status_map_overrides_a_status_in_any_spelling():
    row = row_of(state="TIMED OUT")
    assert to_run(row, status_table(STATUSES, {"Timed_Out": Result.ERROR})).result is Result.ERROR


@pytest.mark.parametrize(
    "duration",
    [
        {"seconds": 60},
        {"minutes": 1},
        {"minutes": "1", "seconds": 0},
        {"hours": 0, "minutes": 1, "seconds": 0.0},
        {"secs": 59, "nanos": 1_000_000_000},
        "00:01:00",
        "1m",
        "60 seconds",
    ],
)
def test_a_duration_may_be_an_object_or_informal_text(duration):
    assert run_of(duration=duration).duration == 60


@pytest.mark.parametrize("duration", [{}, {"ticks": 5}, {"seconds": "many"}, {"seconds": []}])
def test_a_run_with_an_unreadable_duration_loses_only_the_duration(duration):
    run = run_of(duration=duration)
    assert (run.result, run.duration, run.end) == (Result.FAILURE, None, None)


def test_a_number_is_seconds_unless_that_would_end_the_run_in_the_future():
    assert run_of(duration=900).duration == 900
    assert run_of(duration=1000 + FUTURE_MARGIN).duration == 1000 + FUTURE_MARGIN
    assert run_of(duration=2500).duration == 2.5
    assert run_of(duration="2500").duration == 2.5
    assert run_of(duration=10_000_000).duration is None


def test_a_duration_with_a_unit_keeps_its_unit():
    assert run_of(duration="PT2500S").duration == 2500


def test_durations_are_milliseconds_if_most_are_impossible_as_seconds():
    rows = [row_of(duration=2500), row_of(duration=300_000), row_of(duration=800)]
    assert in_milliseconds(rows, NOW, TABLE)
    assert [to_run(row, TABLE, NOW, milliseconds=True).duration for row in rows] == [2.5, 300.0, 0.8]


@pytest.mark.parametrize("durations", [[], [60, 2500, 60], ["PT2500S"], [60.5]])
def test_a_single_odd_number_does_not_change_the_unit_of_the_others(durations):
    assert not in_milliseconds([row_of(duration=duration) for duration in durations], NOW, TABLE)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"startTime": "soon"}, "start time of a run cannot be read"),
        ({"startTime": True}, "start time of a run cannot be read"),
        ({"endTime": "later"}, "end time of a run cannot be read"),
        ({"duration": "long"}, "duration of a run cannot be read"),
        ({"duration": "PT2H"}, "end of a run is in the future"),
        ({"endTime": "2024-01-02T00:00:00Z"}, "end of a run is in the future"),
    ],
)
def test_unparsable_and_implausible_values_are_named(changes, what):
    row = row_of(**changes)
    assert what in [each for each, _ in problems_of(row, to_run(row, TABLE, NOW), NOW)]


@pytest.mark.parametrize("changes", [{}, {"duration": None}, {"state": "RUNNING", "duration": "later"}])
def test_an_ordinary_row_has_no_problems(changes):
    row = row_of(**changes)
    assert list(problems_of(row, to_run(row, TABLE, NOW), NOW)) == []


def test_the_shape_of_a_value_does_not_reveal_it():
    assert shape_of("Order 4711 of Müller, 27.11.2026") == "aaaaa 9999 aa aaaaaa, 99.99.9999"
    assert len(shape_of("x" * 1000)) == 40
