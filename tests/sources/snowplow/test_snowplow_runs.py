import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import DecodeError, SchemaError
from exporter.model import Job, Result, Run, State
from exporter.sources.payload import MAX_WORD_LENGTH, SLICE_SIZE
from exporter.sources.rest import path, status_table
from exporter.sources.snowplow.api import LIST_KEYS, RUN, STATUSES, SnowplowRun, parse_rows, to_job, to_run
from exporter.sources.snowplow.details import parse_failure_reason, parse_log, parse_run, parse_steps

START = 1704067200.0
NOW = START + 1000.0
TABLE = status_table(STATUSES, {})
ROW = {
    "runId": "a" * 64,
    "jobId": "b" * 64,
    "jobName": "webmodel",
    "environment": "com.acme-prod1",
    "state": "SUCCEEDED",
    "startTime": "2024-01-01T00:00:00Z",
    "duration": "PT1M",
}


def parsed(body):
    found = parse_rows(body, {})
    return list(found.by_id.values()), found.invalid


def rows_of(*rows):
    return parsed(json.dumps(rows).encode())


def run_of(table=TABLE, without=(), **changes):
    fields = {key: value for key, value in {**ROW, **changes}.items() if key not in without}
    (row,), invalid = rows_of(fields)
    assert invalid == 0
    return to_run(row, table)


def test_a_documented_run_is_parsed():
    ((row,), invalid) = rows_of({**ROW, "failureReason": "x", "tags": [1, {"a": None}]})
    assert invalid == 0
    assert to_job(row) == Job(job_id="com.acme-prod1/webmodel", name="webmodel", project="com.acme-prod1")
    assert to_run(row, TABLE) == Run(
        run_id="a" * 64,
        job_id="com.acme-prod1/webmodel",
        result=Result.SUCCESS,
        start=START,
        end=START + 60,
        duration=60.0,
    )


def test_unchanged_rows_of_two_responses_are_equal():
    assert rows_of(ROW) == rows_of({**ROW, "unknown": 1})
    assert rows_of(ROW) != rows_of({**ROW, "duration": "PT2M"})
    assert hash(rows_of(ROW)[0][0]) == hash(rows_of(ROW)[0][0])


@pytest.mark.parametrize("tags", [[], [{"a": 1}, {"b": 2}] * 40], ids=["flat", "nested"])
def test_no_row_of_a_list_longer_than_a_slice_is_lost(tags):
    rows = [{**ROW, "runId": f"{number:064x}", "tags": tags} for number in range(2000)]
    assert sum(len(json.dumps(row)) for row in rows) > SLICE_SIZE
    assert rows_of(*rows) == ([rows_of(row)[0][0] for row in rows], 0)


def test_an_empty_list_has_no_runs():
    assert parsed(b" [] ") == ([], 0)


@pytest.mark.parametrize("key", LIST_KEYS)
def test_a_list_may_be_wrapped_in_an_object(key):
    assert parsed(json.dumps({"total": 1, "next": None, key: [ROW]}).encode()) == rows_of(ROW)
    assert parsed(json.dumps({key: []}).encode()) == ([], 0)


def test_the_list_among_two_wrapped_values_is_used():
    assert parsed(json.dumps({"runs": 5, "items": [ROW]}).encode()) == rows_of(ROW)


@pytest.mark.parametrize(
    "body", [b"null", b"5", b'"x"', b"true", b"{}", b'{"message": "x"}', b'{"runs": null}', b'{"runs": {}}']
)
def test_json_of_another_shape_is_a_schema_error(body):
    with pytest.raises(SchemaError):
        parsed(body)


@pytest.mark.parametrize(
    "body", [b"", b" ", b"<html>", b"[", b'[{"runId": "a"', b"[]x", b"\xff", b"[NaN]", b"[" * 100_000]
)
def test_a_body_that_is_not_json_is_a_decode_error(body):
    with pytest.raises(DecodeError):
        parsed(body)


def test_an_array_nested_too_deeply_is_a_decode_error():
    deep = b"[" * 50_000 + b"]" * 50_000
    for body in (deep, b'[{"runId": "a", "x": ' + deep + b"}]"):
        with pytest.raises(DecodeError):
            parsed(body)


@pytest.mark.parametrize("bad", [None, 5, "x", [], {}, {"jobName": "x"}, {"runId": None}, {"runId": ""}, {"runId": {}}])
def test_a_row_that_is_not_a_run_is_dropped_and_counted(bad):
    assert rows_of(ROW, bad, bad) == (rows_of(ROW)[0], 2)


def test_a_list_without_any_valid_run_is_a_schema_error():
    with pytest.raises(SchemaError):
        rows_of({"identifier": "a"}, {"identifier": "b"})


@pytest.mark.parametrize("key", ["id", "runReference"])
def test_a_run_id_may_have_other_names(key):
    assert run_of(without=["runId"], **{key: "r1"}).run_id == "r1"


def test_a_run_id_may_be_a_number():
    assert run_of(runId=17).run_id == "17"


def test_a_job_name_may_be_called_name():
    assert run_of(without=["jobName"], name="other").job_id == "com.acme-prod1/other"


@pytest.mark.parametrize(
    "changes", [{"without": ["jobName"]}, {"jobName": None}, {"jobName": ""}, {"jobName": " "}, {"jobName": {}}]
)
def test_a_job_without_a_name_is_unknown(changes):
    assert run_of(**changes).job_id == "com.acme-prod1/unknown"


def test_slashes_in_environments_and_names_keep_jobs_apart():
    pairs = [("prod", "eu/daily"), ("prod/eu", "daily"), ("prod%2Feu", "daily")]
    assert len({run_of(environment=environment, jobName=name).job_id for environment, name in pairs}) == 3


@pytest.mark.parametrize("changes", [{"without": ["environment"]}, {"environment": None}])
def test_a_missing_environment_is_empty(changes):
    assert run_of(**changes).job_id == "/webmodel"


@pytest.mark.parametrize(
    ("word", "result", "state"),
    [
        ("WAITING", None, State.PENDING),
        ("RUNNING", None, State.EXECUTING),
        ("SUCCEEDED", Result.SUCCESS, None),
        ("FAILED", Result.FAILURE, None),
        ("SKIPPED", Result.SKIP, None),
        ("Failed", Result.FAILURE, None),
        (" failed ", Result.FAILURE, None),
    ],
)
def test_statuses_are_case_insensitive(word, result, state):
    run = run_of(state=word)
    assert (run.result, run.state, run.unmapped) == (result, state, "")


@pytest.mark.parametrize("key", ["status", "runState"])
def test_a_status_may_have_other_names(key):
    assert run_of(without=["state"], **{key: "failed"}).result is Result.FAILURE


def test_a_run_with_an_unmapped_status_and_no_end_time_is_active_without_a_state():
    run = run_of(state="PAUSED")
    assert (run.result, run.state, run.unmapped, run.end) == (None, None, "PAUSED", None)


@pytest.mark.parametrize("key", ["endTime", "endedAt", "finishedAt"])
def test_an_unmapped_status_with_an_end_time_completes_as_unknown(key):
    run = run_of(without=["duration"], state="EXPLODED", **{key: "2024-01-01T00:05:00Z"})
    assert (run.result, run.unmapped, run.end, run.duration) == (Result.UNKNOWN, "EXPLODED", START + 300, 300.0)


@pytest.mark.parametrize("changes", [{"without": ["state"]}, {"state": None}, {"state": ""}, {"state": []}])
def test_a_missing_status_is_unmapped(changes):
    run = run_of(**changes)
    assert (run.result, run.state, run.unmapped) == (None, None, "absent")


def test_a_long_status_is_truncated():
    assert run_of(state="X" * 1000).unmapped == "X" * MAX_WORD_LENGTH


def test_a_status_map_adds_statuses_and_overrides_known_ones():
    table = status_table(STATUSES, {"paused": State.PENDING, "Skipped": Result.SUCCESS})
    assert run_of(table, state="PAUSED").state is State.PENDING
    assert run_of(table, state="SKIPPED").result is Result.SUCCESS
    assert run_of(table, state="FAILED").result is Result.FAILURE


@pytest.mark.parametrize("key", ["startedAt", "started"])
@pytest.mark.parametrize("value", ["2024-01-01T01:00:00+01:00", 1704067200, 1704067200000, "1704067200"])
def test_a_start_may_have_other_names_and_styles(key, value):
    assert run_of(without=["startTime"], **{key: value}).start == START


@pytest.mark.parametrize("value", [None, "publish_throttled", {}, True])
def test_without_a_valid_start_there_are_no_times(value):
    run = run_of(startTime=value, duration=None)
    assert (run.start, run.end, run.duration) == (None, None, None)


@pytest.mark.parametrize("value", [60, 60.0, "60", "PT60S"])
def test_a_duration_may_be_a_number_of_seconds_and_have_another_name(value):
    assert run_of(duration=value).end == START + 60
    assert run_of(without=["duration"], runDuration=value).end == START + 60


def test_a_negative_duration_is_zero():
    run = run_of(duration="-PT5S")
    assert (run.end, run.duration) == (START, 0.0)


@pytest.mark.parametrize("value", [None, "long", [], True])
def test_a_completed_run_without_a_duration_has_no_end(value):
    run = run_of(duration=value)
    assert (run.result, run.end, run.duration) == (Result.SUCCESS, None, None)


def test_an_explicit_end_takes_precedence_over_start_and_duration():
    run = run_of(endTime="2024-01-01T00:05:00Z")
    assert (run.end, run.duration) == (START + 300, 60.0)


def test_a_running_run_has_no_end_and_no_duration_and_is_equal_in_each_poll():
    run = run_of(state="RUNNING", duration="PT60S")
    assert (run.end, run.duration) == (None, None)


def test_a_waiting_run_may_have_neither_start_nor_duration():
    run = run_of(without=["startTime", "duration"], state="WAITING")
    assert (run.state, run.start, run.duration) == (State.PENDING, None, None)


def test_half_a_surrogate_pair_loses_only_that_character():
    text = json.dumps([{**ROW, "failureReason": "cut \ud83d", "jobName": "a\ud83d\ude00\\ud83d\udc4f\udead"}])
    ((row,), invalid) = parsed(text.encode())
    assert (row.job_name, invalid) == ("a\U0001f600\\ud83d\ufffd\ufffd", 0)


def test_a_byte_order_mark_is_skipped():
    assert parsed(b"\xef\xbb\xbf" + json.dumps([ROW]).encode()) == rows_of(ROW)


def test_names_with_odd_letters_are_kept_as_they_are():
    assert run_of(jobName='a\x01b\n"c"\u2028').job_id == 'com.acme-prod1/a\x01b\n"c"\u2028'


def test_numbers_too_large_for_a_float_lose_only_their_field():
    body = json.dumps([ROW]).replace('"PT1M"', "1e400").replace('"jobId"', '"x": 1e999, "jobId"')
    ((row,), invalid) = parsed(body.encode())
    assert (to_run(row, TABLE).duration, invalid) == (None, 0)
    ((row,), _) = parsed(body.replace("1e400", "9" * 5000).encode())
    assert to_run(row, TABLE).duration is None


def test_a_row_with_bytes_that_are_not_text_in_its_id_is_dropped():
    body = json.dumps([ROW, {**ROW, "runId": "BAD"}]).encode().replace(b"BAD", b"\xff")
    assert parsed(body) == (rows_of(ROW)[0], 1)


def test_a_run_by_id_includes_its_steps():
    row, steps = parse_run(json.dumps({**ROW, "steps": [{"name": "run-dbt", "state": "FAILED"}]}).encode(), TABLE)
    assert row == rows_of(ROW)[0][0]
    assert [(step.name, step.result) for step in steps or ()] == [("run-dbt", Result.FAILURE)]


@pytest.mark.parametrize("changes", [{}, {"steps": None}, {"steps": 5}])
def test_a_run_by_id_without_steps_has_none(changes):
    assert parse_run(json.dumps({**ROW, **changes}).encode(), TABLE)[1] is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"failureReason": "out of disk"}, "out of disk"),
        ({"run": {"failure_reason": "out of disk"}, "steps": []}, "out of disk"),
        ([{"data": [{"failureReason": "out of disk"}]}], "out of disk"),
        ({"failureReason": None}, ""),
        ({"runId": "r1"}, ""),
    ],
)
def test_the_reason_of_a_failure_is_the_error_text_of_the_run(body, reason):
    assert parse_failure_reason(json.dumps(body).encode()).stderr == reason


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"message": "x"}', b"null"])
def test_a_response_that_is_not_a_run_is_a_schema_error(body):
    with pytest.raises(SchemaError):
        parse_run(body, TABLE)


def test_parts_of_a_path_are_quoted():
    assert path(RUN, org="a b", runId="x/?#é") == "/organizations/a%20b/jobs/v1/runs/x%2F%3F%23%C3%A9"


PARSERS = {
    "rows": lambda body: [to_run(row, TABLE) for row in parsed(body)[0]],
    "run": lambda body: to_run(parse_run(body, TABLE)[0], TABLE),
    "steps": lambda body: parse_steps(body, TABLE),
    "log": parse_log,
    "failure reason": parse_failure_reason,
}
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(list(ROW.values()))
keys = st.sampled_from([*ROW, *LIST_KEYS, "id", "name", "status", "steps", "dependencies", "dependsOn", "endTime"])
trees = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys | st.text(), inner), max_leaves=12)
records = st.dictionaries(keys, trees)
answers = (trees | records | st.lists(records)).map(lambda tree: json.dumps(tree).encode(errors="replace"))


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@given(body=answers | st.binary())
def test_no_body_raises_any_other_error(parse, body):
    with contextlib.suppress(DecodeError, SchemaError):
        parse(body)


@pytest.mark.parametrize("parse", PARSERS.values(), ids=PARSERS)
@given(data=st.data())
def test_no_damaged_body_raises_another_error(parse, data):
    body = json.dumps([{**ROW, "name": "s", "steps": [{"name": "x", "dependencies": ["s", {"name": "t"}]}]}]).encode()
    cut = data.draw(st.integers(0, len(body)))
    junk = data.draw(st.binary(max_size=8) | st.sampled_from([b"\\ud800", b"1e999", b"[" * 2000, b"\x00", b"NaN"]))
    with contextlib.suppress(DecodeError, SchemaError):
        parse(body[:cut] + junk + body[data.draw(st.integers(cut, len(body))) :])


def test_both_parsers_return_the_same_row():
    odd = {"runs": [{**ROW, "runState": ROW["state"], "state": None}]}
    assert parsed(json.dumps(odd).encode())[0] == rows_of(ROW)[0]
    assert isinstance(rows_of(ROW)[0][0], SnowplowRun)


def test_rows_with_unchanged_text_reuse_their_runs_and_others_are_parsed():
    earlier = parse_rows(json.dumps([ROW, {**ROW, "runId": "c"}]).encode(), {})
    changed = {**ROW, "runId": "c", "state": "FAILED"}
    now = parse_rows(json.dumps([changed, 5, ROW]).encode(), earlier.by_text)
    assert [(row.run_id, row.state) for row in now.fresh] == [("c", "FAILED")]
    assert now.by_id[ROW["runId"]] is earlier.by_id[ROW["runId"]]
    assert (len(earlier.fresh), len(now.by_text), now.invalid) == (2, 2, 1)
