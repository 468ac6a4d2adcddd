import base64
import json
from datetime import UTC, datetime

import httpx
import isodate
import pytest

from exporter.model import Result
from exporter.simulators.script import RunScript, StepScript, make_run
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.snowplow_rows import SnowplowShape, written_duration, written_time
from exporter.simulators.snowplow_window import events
from exporter.simulators.world import MARK

HOUR, DAY = 3600.0, 86400.0
NOW = 1_700_000_000.0


def stamp(timestamp):
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- signing in


def test_a_key_with_its_id_gets_a_token_that_contains_its_expiry(snowplow, simulator, clock):
    token = snowplow.http.get(snowplow.root + "/credentials/v3/token", headers=snowplow.keys).json()["accessToken"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["exp"] == clock() + simulator.options.token_lifetime


@pytest.mark.parametrize("missing", ["X-API-Key-ID", "X-API-Key"])
def test_version_3_needs_both_headers(snowplow, missing):
    headers = {name: value for name, value in snowplow.keys.items() if name != missing}
    assert snowplow.http.get(snowplow.root + "/credentials/v3/token", headers=headers).status_code == 401


def test_version_2_needs_the_key_only(snowplow):
    answer = snowplow.http.get(snowplow.root + "/credentials/v2/token", headers={"X-API-Key": "simulated-key"})
    assert answer.json()["accessToken"]
    assert snowplow.http.get(snowplow.root + "/credentials/v2/token").status_code == 401


def password_form(credentials, **changes):
    names = ("username", "password", "client_id", "client_secret", "audience")
    return {"grant_type": "password"} | {name: getattr(credentials, name) for name in names} | changes


def test_a_password_gets_a_token_that_works(snowplow, simulator):
    answer = snowplow.http.post("/oauth/token", data=password_form(simulator.credentials))
    snowplow.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    assert snowplow.window().status_code == 200


@pytest.mark.parametrize(
    ("changes", "status"), [({"password": "wrong"}, 401), ({"audience": ""}, 401), ({"grant_type": "refresh"}, 400)]
)
def test_a_wrong_password_form_is_refused(snowplow, simulator, changes, status):
    answer = snowplow.http.post("/oauth/token", data=password_form(simulator.credentials, **changes))
    assert answer.status_code == status


def test_a_password_sent_as_json_is_refused(snowplow, simulator):
    assert snowplow.http.post("/oauth/token", json=password_form(simulator.credentials)).status_code == 415


def test_a_disabled_sign_in_method_does_not_exist(snowplow, option):
    option(flows=frozenset({"v2"}))
    assert snowplow.http.get(snowplow.root + "/credentials/v3/token", headers=snowplow.keys).status_code == 404


def test_a_token_is_valid_until_it_expires(snowplow, clock):
    clock.advance(DAY - 1)
    assert snowplow.window().status_code == 200
    clock.advance(1)
    assert snowplow.window().status_code == 401


def test_revoked_tokens_are_refused_and_a_new_one_is_not(snowplow):
    assert snowplow.http.post("/-/expire-tokens").status_code == 200
    assert snowplow.window().status_code == 401
    snowplow.sign_in()
    assert snowplow.window().status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x.y.z", "Basic dTpw"])
def test_a_missing_or_wrong_token_is_refused(snowplow, header):
    snowplow.http.headers["Authorization"] = header
    assert snowplow.window().status_code == 401


def test_an_unknown_organization_is_not_found(snowplow):
    assert snowplow.http.get(snowplow.runs_path.replace("5a7e", "0000")).status_code == 404
    token = snowplow.root.replace("5a7e", "0000") + "/credentials/v3/token"
    assert snowplow.http.get(token, headers=snowplow.keys).status_code == 404


def test_an_endpoint_can_be_forbidden(snowplow, option):
    option(forbidden=frozenset({"runs"}))
    answer = snowplow.window()
    assert (answer.status_code, "message" in answer.json()) == (403, True)


# --- the window


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("", "PT0S"),
        ("PT-1H", ""),
        ("PT-1H", "2023-11-14T22:00:00Z"),
        ("2023-11-14T22:00:00Z", "PT0S"),
        ("2023-11-14T21:00:00.5Z", "2023-11-14T22:00:00.5Z"),
        ("2023-11-14T21:00:00", "2023-11-14T22:00:00"),
        ("2023-11-31T21:00:00Z", "2023-11-31T22:00:00Z"),
        ("yesterday", "today"),
        ("PT-96H-1S", "PT0S"),
        ("PT-168H-1S", "PT-100H"),
        ("PT0S", "PT1S"),
        ("PT-1H", "PT-2H"),
    ],
)
def test_a_window_that_is_not_allowed_is_refused(snowplow, start, end):
    assert snowplow.window(start, end).status_code == 400


@pytest.mark.parametrize(
    ("start", "end"), [("PT-96H", "PT0S"), ("P-7D", "PT-72H"), ("-PT12H", "-PT1H"), ("PT0S", "PT0S")]
)
def test_durations_are_relative_to_now(snowplow, start, end):
    assert snowplow.window(start, end).status_code == 200


def test_the_oldest_duration_is_allowed_while_time_passes(world):
    with SnowplowSimulator(world) as simulator, httpx.Client(base_url=simulator.url) as http:
        root = f"/api/msc/v1/organizations/{simulator.organization_id}"
        headers = {"X-API-Key-ID": "simulated-key-id", "X-API-Key": "simulated-key"}
        token = http.get(root + "/credentials/v3/token", headers=headers).json()["accessToken"]
        http.headers["Authorization"] = f"Bearer {token}"
        answers = [http.get(root + "/jobs/v1/runs?from=P-7D&to=PT-72H") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}


def test_timestamps_may_be_a_week_old_and_not_a_second_more(snowplow, clock):
    week_ago = clock() - 7 * DAY
    assert snowplow.window(stamp(week_ago), stamp(week_ago + DAY)).status_code == 200
    assert snowplow.window(stamp(week_ago - 1), stamp(week_ago + DAY)).status_code == 400


def test_a_missing_parameter_is_refused(snowplow):
    assert snowplow.http.get(snowplow.runs_path, params={"from": "PT-1H"}).status_code == 400


def test_a_future_end_can_be_accepted(snowplow, option):
    option(future_to="accepted")
    assert snowplow.window("PT-1H", "PT1H").status_code == 200


def test_runs_are_selected_by_their_start(snowplow, world, clock):
    before = world.run("a", start=clock() - 2 * HOUR - 1, duration=2 * HOUR)
    first = world.run("a", start=clock() - 2 * HOUR, duration=60)
    last = world.run("a", created=clock() - 1.5 * HOUR, start=clock() - HOUR, duration=60)
    shown = [row["runId"] for row in snowplow.rows("PT-2H", "PT-1H")]
    assert shown == [first.run_id]
    assert before.run_id not in shown
    assert last.run_id not in shown


def test_runs_can_be_selected_by_any_event(snowplow, world, clock, option):
    option(select="event")
    run = world.run("a", start=clock() - 3 * HOUR, duration=2.5 * HOUR)
    world.run("a", start=clock() - 3 * HOUR, duration=60)
    assert [row["runId"] for row in snowplow.rows("PT-1H", "PT0S")] == [run.run_id]


def test_rows_can_have_the_state_at_the_end_of_the_window(snowplow, world, clock, option):
    world.run("a", start=clock() - 2 * HOUR, duration=1.5 * HOUR)
    assert snowplow.rows("PT-3H", "PT-1H")[0]["state"] == "SUCCEEDED"
    option(as_of="to")
    assert snowplow.rows("PT-3H", "PT-1H")[0]["state"] == "RUNNING"


@pytest.mark.parametrize(("order", "jobs"), [("newest", ["c", "b", "a"]), ("oldest", ["a", "b", "c"])])
def test_the_order_of_rows_can_be_chosen(snowplow, world, option, order, jobs):
    option(order=order)
    for place, job in enumerate("abc"):
        world.run(job, start=NOW - 1000 + place, duration=1)
    assert [row["jobName"] for row in snowplow.rows()] == jobs


def test_shuffled_rows_are_the_same_rows(snowplow, world, clock, option):
    option(order="shuffled")
    runs = {world.run("a", start=clock() - 1000 + number, duration=1).run_id for number in range(50)}
    one, other = ([row["runId"] for row in snowplow.rows()] for _ in range(2))
    assert set(one) == set(other) == runs
    assert one != other


# --- the trim


def test_a_run_of_2_steps_makes_7_events_and_one_of_20_makes_43():
    for steps, count in ((2, 7), (20, 43)):
        run = make_run(RunScript(job="a", start=0.0, steps=tuple(f"s{n}" for n in range(steps))), 0.0, 0)
        assert len(events(run)) == count


def test_parallel_steps_are_one_group():
    steps = ("a", StepScript(name="b"), StepScript(name="c", dependencies=("a",)))
    assert len(events(make_run(RunScript(job="x", start=0.0, steps=steps), 0.0, 0))) == 3 + 2 + 3


def test_skipped_steps_make_events_too():
    steps = (StepScript(name="a", result=Result.FAILURE), "b")
    assert len(events(make_run(RunScript(job="x", start=0.0, steps=steps, result=Result.FAILURE), 0.0, 0))) == 7


@pytest.mark.parametrize(("limit", "left"), [(70, 10), (69, 10), (64, 10), (63, 9), (7, 1), (1, 1)])
def test_the_oldest_runs_vanish_when_none_of_their_events_is_among_the_latest(snowplow, world, option, limit, left):
    runs = [world.run("a", start=NOW - 1000 + 50 * n, duration=20, steps=["x", "y"]) for n in range(10)]
    option(event_limit=limit)
    assert [row["runId"] for row in snowplow.rows()] == [run.run_id for run in reversed(runs)][:left]


def test_a_long_run_survives_a_trim_by_its_late_events(snowplow, world, clock, option):
    long = world.run("long", start=clock() - 5000, duration=4999)
    for number in range(10):
        world.run("short", start=clock() - 1000 + 50 * number, duration=20)
    option(event_limit=7)
    assert {row["runId"] for row in snowplow.rows()} > {long.run_id}
    assert len(snowplow.rows()) == 3


def test_a_split_window_shows_what_the_whole_one_trimmed(snowplow, world, clock, option):
    for number in range(10):
        world.run("a", start=clock() - 10 * HOUR + HOUR * number, duration=20, steps=["x", "y"])
    option(event_limit=35)
    whole, older, newer = snowplow.rows("PT-12H"), snowplow.rows("PT-12H", "PT-5H"), snowplow.rows("PT-5H")
    assert (len(whole), len(older), len(newer)) == (5, 5, 5)
    assert not {row["runId"] for row in older} & {row["runId"] for row in newer}


def test_only_past_events_fill_the_response(snowplow, world, clock, option):
    world.run("old", start=clock() - 1000, duration=10)
    world.run("open", start=clock() - 5, duration=1000, steps=["x", "y", "z"])
    option(event_limit=4)
    assert len(snowplow.rows()) == 2


# --- rows


def test_a_completed_run_has_the_fields_of_real_ones(snowplow, world, clock):
    run = world.run("webmodel", project="com.acme-prod1", start=clock() - 100, duration=61.5)
    row = snowplow.rows()[0]
    assert row.pop("jobId").isalnum()
    assert row == {
        "runId": run.run_id,
        "jobName": "webmodel",
        "environment": "com.acme-prod1",
        "state": "SUCCEEDED",
        "startTime": "2023-11-14T22:11:40.000Z",
        "duration": "PT1M1.5S",
    }
    assert len(row["runId"]) == 64


def test_a_running_run_shows_its_duration_so_far(snowplow, world, clock):
    world.run("a", start=clock() - 100, duration=1000)
    assert (row := snowplow.rows()[0])["state"] == "RUNNING"
    assert row["duration"] == "PT1M40S"


def test_a_waiting_run_has_neither_start_nor_duration(snowplow, world, clock):
    world.run("a", created=clock() - 100, queue=1000)
    row = snowplow.rows()[0]
    assert row["state"] == "WAITING"
    assert not {"startTime", "duration"} & set(row)


def test_only_a_failed_run_has_a_reason_which_contains_customer_data(snowplow, world, clock):
    world.run("a", start=clock() - 100, duration=10, result="failure")
    assert MARK in snowplow.rows()[0]["failureReason"]


def test_an_edited_job_gets_another_id(snowplow, world, clock):
    world.run("a", start=clock() - 100, duration=10)
    world.run("a", start=clock() - 50, duration=10, version=2)
    assert len({row["jobId"] for row in snowplow.rows()}) == 2


def test_a_run_by_id_includes_its_steps(snowplow, world, clock):
    failing = {"name": "run model", "result": "failure"}
    run = world.run("a", start=clock() - 300, duration=100, result="failure", steps=["check-lock", failing, "publish"])
    answer = snowplow.run(run.run_id).json()
    assert [(step["name"], step["state"], step["dependencies"]) for step in answer["steps"]] == [
        ("check-lock", "SUCCEEDED", []),
        ("run model", "FAILED", ["check-lock"]),
        ("publish", "SKIPPED", ["run model"]),
    ]
    assert snowplow.http.get(f"{snowplow.runs_path}/{run.run_id}/steps").json() == answer["steps"]


def test_a_running_run_can_have_a_failed_step(snowplow, world, clock):
    steps = [
        {"name": "a", "duration": 10, "result": "failure"},
        {"name": "b", "duration": 5000, "dependencies": []},
        {"name": "c", "dependencies": ["a"]},
    ]
    run = world.run("a", start=clock() - 100, duration=5000, result="failure", steps=steps)
    answer = snowplow.run(run.run_id).json()
    assert answer["state"] == "RUNNING"
    assert [step["state"] for step in answer["steps"]] == ["FAILED", "RUNNING", "SKIPPED"]


def test_a_step_that_stopped_its_run_is_a_success_without_operation(snowplow, world, clock):
    run = world.run("a", start=clock() - 100, duration=50, steps=[{"name": "check", "no_op": True}, "model"])
    answer = snowplow.run(run.run_id).json()
    assert (answer["state"], [step["state"] for step in answer["steps"]]) == (
        "SUCCEEDED",
        ["SUCCEEDED_NO_OP", "SKIPPED"],
    )


def test_a_steps_output_is_its_tail_and_contains_customer_data(snowplow, world, clock):
    run = world.run("a", start=clock() - 300, duration=100, result="failure", steps=["run model"])
    answer = snowplow.http.get(f"{snowplow.runs_path}/{run.run_id}/steps/run%20model").json()
    assert len(answer["stdout"]) == 10_000
    assert MARK in answer["stdout"]
    assert MARK in answer["stderr"]


@pytest.mark.parametrize("path", ["/unknown", "/unknown/steps", "/unknown/steps/x"])
def test_an_unknown_run_is_not_found(snowplow, path):
    assert snowplow.http.get(snowplow.runs_path + path).status_code == 404


def test_an_unknown_step_is_not_found(snowplow, world, clock):
    run = world.run("a", start=clock() - 300, duration=100, steps=["x"])
    assert snowplow.http.get(f"{snowplow.runs_path}/{run.run_id}/steps/y").status_code == 404


def test_a_run_vanishes_from_every_endpoint_a_week_after_its_start(snowplow, world, clock):
    run = world.run("a", start=clock() - 7 * DAY, duration=8 * DAY, steps=["x"])
    paths = [run.run_id, f"{run.run_id}/steps", f"{run.run_id}/steps/x"]
    assert [snowplow.run(path).status_code for path in paths] == [200, 200, 200]
    assert len(snowplow.rows("P-7D", "P-6D")) == 1
    clock.advance(1)
    assert [snowplow.run(path).status_code for path in paths] == [404, 404, 404]
    assert snowplow.rows("P-7D", "P-6D") == []


# --- the shapes that the documentation leaves open


@pytest.mark.parametrize("key", ["runs", "jobRuns", "data", "items", "results"])
def test_the_list_can_come_in_an_envelope(snowplow, option, key):
    option(rows=SnowplowShape(envelope=key))
    assert snowplow.window().json() == {key: []}


SHAPES = [
    ({"names": {"runId": "runReference"}}, "runReference", ...),
    ({"names": {"startTime": "startedAt"}}, "startedAt", "2023-11-14T22:11:40.000Z"),
    ({"omit": ["jobName"]}, "jobName", None),
    ({"empty": "null"}, "failureReason", None),
    ({"extra": {"tags": "x"}}, "tags", "x"),
    ({"words": {"SUCCEEDED": "DONE"}}, "state", "DONE"),
    ({"letters": "lower"}, "state", "succeeded"),
    ({"letters": "title"}, "state", "Succeeded"),
    ({"times": "epoch_s"}, "startTime", 1_699_999_900),
    ({"times": "epoch_ms"}, "startTime", 1_699_999_900_000),
    ({"offset_minutes": -420}, "startTime", "2023-11-14T15:11:40.000-07:00"),
    ({"fraction_digits": 0}, "startTime", "2023-11-14T22:11:40Z"),
    ({"fraction_digits": 9}, "startTime", "2023-11-14T22:11:40.000000000Z"),
    ({"durations": "number"}, "duration", 61.5),
    ({"durations": "days"}, "duration", "P0DT61.5S"),
    ({"durations": "seconds"}, "duration", "PT61.5S"),
    ({"durations": "number", "negate_durations": True}, "duration", -61.5),
    ({"end_time": "endTime"}, "endTime", "2023-11-14T22:12:41.500Z"),
]


@pytest.mark.parametrize(("shape", "field", "value"), SHAPES)
def test_rows_have_the_selected_shape(snowplow, world, shape, field, value):
    world.run("a", start=NOW - 100, duration=61.5)
    assert snowplow.http.post("/-/options", json={"rows": shape}).status_code == 200
    row = snowplow.rows()[0]
    assert row.get(field) is not None if value is ... else row.get(field) == value


@pytest.mark.parametrize(
    ("form", "value"), [("names", ["x"]), ("objects", [{"name": "x"}]), ("null", None), ("absent", "absent")]
)
def test_dependencies_have_the_selected_form(snowplow, world, option, form, value):
    run = world.run("a", start=NOW - 100, duration=50, steps=["x", "y"])
    option(rows=SnowplowShape(dependencies=form, names={"dependencies": "dependsOn"}, steps_key="jobSteps"))
    assert snowplow.run(run.run_id).json()["jobSteps"][1].get("dependsOn", "absent") == value


@pytest.mark.parametrize("style", ["iso", "seconds", "days", "weeks"])
@pytest.mark.parametrize("seconds", [0.0, 0.001, 60.0, 3600.0, 5025.1, 86_460.0, 700_000.25])
def test_durations_of_every_style_are_equal(style, seconds):
    text = written_duration(seconds, SnowplowShape(durations=style))
    assert isodate.parse_duration(text).total_seconds() == pytest.approx(seconds)


def test_a_time_keeps_its_milliseconds():
    assert written_time(1_700_000_000.007, SnowplowShape(fraction_digits=4)) == "2023-11-14T22:13:20.0070Z"


def test_a_share_of_the_rows_can_lack_a_field(snowplow, world, option):
    for number in range(50):
        world.run("a", start=NOW - 1000 + number, duration=1)
    option(rows=SnowplowShape(omit=frozenset({"runId"}), omit_share=0.3))
    assert 5 <= sum("runId" not in row for row in snowplow.rows()) <= 30


def test_selected_runs_can_have_an_unknown_status(snowplow, world, option):
    world.run("a", start=NOW - 100, duration=10, result="cancellation")
    world.run("a", start=NOW - 50, duration=10)
    option(rows=SnowplowShape(words={"cancellation": "CANCELLED"}))
    assert [row["state"] for row in snowplow.rows()] == ["SUCCEEDED", "CANCELLED"]


def test_a_completed_run_can_still_have_open_steps(snowplow, world, option):
    run = world.run("a", start=NOW - 100, duration=98, steps=["x", "y"])
    option(steps_late=5)
    answer = snowplow.run(run.run_id).json()
    assert (answer["state"], answer["steps"][1]["state"]) == ("SUCCEEDED", "RUNNING")


def test_a_rate_limit_says_when_to_retry(snowplow, clock, option):
    option(requests_per_minute=2)
    assert [snowplow.window().status_code for _ in range(3)] == [200, 200, 429]
    wait = int(snowplow.window().headers["Retry-After"])
    clock.advance(wait)
    assert snowplow.window().status_code == 200


def test_unknown_options_are_refused(snowplow):
    assert snowplow.http.post("/-/options", json={"shade": "blue"}).status_code == 400
