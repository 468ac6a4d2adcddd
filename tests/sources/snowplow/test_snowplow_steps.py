import json

import pytest

from exporter.errors import DecodeError, SchemaError
from exporter.model import Result, State, Step
from exporter.sources.rest import status_table
from exporter.sources.snowplow.api import STATUSES
from exporter.sources.snowplow.details import STEP_LIST_KEYS, parse_log, parse_steps
from exporter.sources.source import StepLog

TABLE = status_table(STATUSES, {})


def steps_of(*rows):
    return parse_steps(json.dumps(rows).encode(), TABLE)


def test_a_documented_step_is_parsed():
    row = {"name": "run-dbt", "state": "FAILED", "dependencies": ["check-lock"], "duration": "PT5025.1S"}
    assert steps_of(row) == [
        Step(name="run-dbt", result=Result.FAILURE, duration=5025.1, dependencies=("check-lock",)),
    ]


@pytest.mark.parametrize(
    ("word", "result", "state"),
    [
        ("WAITING", None, State.PENDING),
        ("RUNNING", None, State.EXECUTING),
        ("SUCCEEDED", Result.SUCCESS, None),
        ("SUCCEEDED_NO_OP", Result.SUCCESS, None),
        ("FAILED", Result.FAILURE, None),
        ("SKIPPED", Result.SKIP, None),
        ("skipped", Result.SKIP, None),
        ("NEW_WORD", None, None),
        (None, None, None),
    ],
)
def test_statuses_of_steps_are_mapped(word, result, state):
    (step,) = steps_of({"name": "s", "state": word})
    assert (step.result, step.state, step.duration) == (result, state, None)


@pytest.mark.parametrize("key", ["name", "stepName", "taskName"])
def test_a_step_name_may_have_other_names(key):
    assert [step.name for step in steps_of({key: "a b", "status": "FAILED"})] == ["a b"]


@pytest.mark.parametrize("bad", [None, 5, [], {}, {"name": None}, {"name": ""}, {"name": " "}, {"name": "\x01"}])
def test_a_row_that_is_not_a_step_is_dropped(bad):
    assert [step.name for step in steps_of(bad, {"name": "s"})] == ["s"]


def test_each_step_name_occurs_once_with_its_latest_state():
    steps = steps_of({"name": "s", "state": "RUNNING"}, {"name": "t"}, {"name": "s", "state": "FAILED"})
    assert [(step.name, step.result) for step in steps] == [("s", Result.FAILURE), ("t", None)]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"dependencies": ["a", "b"]}, ("a", "b")),
        ({"dependsOn": ["a"]}, ("a",)),
        ({"dependencies": None, "dependsOn": ["a"]}, ("a",)),
        ({"dependencies": [{"name": "a"}, {"id": 1}, None, []]}, ("a",)),
        ({"dependencies": None}, ()),
        ({"dependencies": "a"}, ()),
        ({}, ()),
    ],
)
def test_dependencies_are_names_or_objects_with_one(fields, names):
    assert steps_of({"name": "s", **fields})[0].dependencies == names


def test_times_of_a_step_are_parsed_if_present():
    (step,) = steps_of({"name": "s", "state": "SUCCEEDED", "startTime": "2024-01-01T00:00:00Z", "duration": 60})
    assert (step.start, step.end, step.duration) == (1704067200.0, 1704067260.0, 60.0)


@pytest.mark.parametrize("key", STEP_LIST_KEYS)
def test_steps_may_be_wrapped_in_an_object(key):
    assert [step.name for step in parse_steps(json.dumps({key: [{"name": "s"}]}).encode(), TABLE)] == ["s"]


def test_an_empty_list_has_no_steps():
    assert steps_of() == []


@pytest.mark.parametrize(("body", "error"), [(b"{}", SchemaError), (b"[1]", SchemaError), (b"[", DecodeError)])
def test_other_answers_are_errors(body, error):
    with pytest.raises(error):
        parse_steps(body, TABLE)


@pytest.mark.parametrize(
    ("body", "log"),
    [
        (b'{"stdout": "out\\n", "stderr": "err", "name": "s"}', StepLog(stdout="out\n", stderr="err")),
        (b'{"stdout": null}', StepLog()),
        (b'{"stdout": ["x"], "stderr": "cut \\ud83d"}', StepLog(stderr="cut \ufffd")),
        (b"{}", StepLog()),
    ],
)
def test_a_log_has_two_texts_either_of_which_may_be_missing(body, log):
    assert parse_log(body) == log


@pytest.mark.parametrize(("body", "error"), [(b"[]", SchemaError), (b"null", SchemaError), (b"oops", DecodeError)])
def test_an_invalid_log_is_an_error(body, error):
    with pytest.raises(error):
        parse_log(body)
