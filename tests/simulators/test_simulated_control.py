import threading

import httpx
import pytest
import yaml

from exporter.simulators import SIMULATORS
from exporter.simulators.demo import PLANS
from exporter.simulators.message import Request
from exporter.simulators.request_log import LOG_LENGTH, RequestLog
from exporter.simulators.serve import serve
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.world import MARK


def test_the_truth_has_every_completed_run_up_to_now_and_the_active_runs(snowplow, world, clock):
    ended = world.run("a", start=clock() - 100, duration=50, result="failure", steps=["x", "y"], attempts=3)
    running = world.run("b", start=clock() - 100, duration=1000)
    world.run("c", start=clock() + 100, duration=1)
    truth = snowplow.http.get("/-/truth").json()
    assert truth["now"] == clock()
    assert [run["run_id"] for run in truth["open"]] == [running.run_id]
    run = truth["endings"][0]
    assert run["run_id"] == ended.run_id
    assert (run["job"], run["project"], run["result"], run["retries"]) == ("a", "prod", "failure", 2)
    assert (run["start"], run["end"]) == (clock() - 100, clock() - 50)
    assert [(step["name"], step["result"]) for step in run["steps"]] == [("x", "success"), ("y", "failure")]


def test_the_truth_grows_with_the_clock(snowplow, world, clock):
    world.run("a", start=clock() - 10, duration=20)
    assert snowplow.http.get("/-/truth").json()["endings"] == []
    clock.advance(10)
    assert len(snowplow.http.get("/-/truth").json()["endings"]) == 1


def test_the_truth_can_be_limited_to_a_range_of_ends(snowplow, world, clock):
    for number in range(5):
        world.run("a", start=clock() - 100, end=clock() - 10 * number)
    stretch = {"since": clock() - 30, "until": clock() - 10}
    ends = [run["end"] for run in snowplow.http.get("/-/truth", params=stretch).json()["endings"]]
    assert ends == [clock() - 30, clock() - 20]
    assert snowplow.http.get("/-/truth", params={"since": "yesterday"}).status_code == 400


def test_runs_can_be_added_over_http(snowplow, clock):
    scripts = [{"job": "a", "start": clock() - 60, "duration": 10, "steps": ["x", {"name": "y", "result": "failure"}]}]
    added = snowplow.http.post("/-/runs", json=scripts).json()
    assert [row["runId"] for row in snowplow.rows()] == [added[0]["run_id"]]


@pytest.mark.parametrize("scripts", [[{"jobs": "a"}], {}, [{"job": "a", "result": "well"}]])
def test_an_invalid_script_is_refused(snowplow, scripts):
    assert snowplow.http.post("/-/runs", json=scripts).status_code == 400


def test_a_generated_world_accepts_no_runs(clock):
    with SnowplowSimulator.demo(clock) as simulator:
        assert httpx.post(simulator.url + "/-/runs", json=[]).status_code == 409


def test_requests_are_logged_with_endpoint_and_status(snowplow):
    snowplow.window("PT-1H", "PT0S")
    snowplow.run("x")
    snowplow.http.get("/elsewhere")
    answer = snowplow.http.get("/-/requests").json()
    assert [(line["endpoint"], line["status"]) for line in answer["requests"]] == [
        ("token_v3", 200), ("runs", 200), ("run", 404), ("", 404),
    ]  # fmt: skip
    assert answer["requests"][1]["query"] == "from=PT-1H&to=PT0S"
    assert answer["total"] == 4
    assert {"endpoint": "run", "status": 404, "count": 1} in answer["counts"]


def test_the_log_has_no_header_values(snowplow, simulator):
    snowplow.window()
    text = snowplow.http.get("/-/requests").text
    assert "authorization" in text
    assert simulator.credentials.api_key not in text
    assert "Bearer" not in text


def test_logged_requests_can_be_cleared(snowplow):
    snowplow.http.delete("/-/requests")
    assert snowplow.http.get("/-/requests").json() == {"requests": [], "counts": [], "total": 0}


def test_the_log_is_bounded_and_the_counts_are_not():
    log = RequestLog()
    for number in range(LOG_LENGTH + 5):
        log.add(Request(method="GET", path=f"/{number}", query={}, headers={}, endpoint="runs"), "", 200)
    assert log.lines()[0].path == "/5"
    assert len(log.lines("runs")) == LOG_LENGTH
    assert log.counts() == {("runs", 200): LOG_LENGTH + 5}


DISRUPTIONS = [
    {"kind": "status", "code": 429, "retry_after": 3.0, "endpoint": "runs"},
    {"kind": "lost_end", "share": 0.5},
    {"kind": "outage", "since": 1.0, "until": 2.0},
]


def test_disruptions_are_set_and_shown_over_http(snowplow):
    assert snowplow.http.post("/-/faults", json=DISRUPTIONS).status_code == 200
    shown = snowplow.http.get("/-/faults").json()
    assert [one | disruption for disruption, one in zip(DISRUPTIONS, shown, strict=True)] == shown
    assert snowplow.window().status_code == 429
    assert snowplow.http.delete("/-/faults").json() == []


@pytest.mark.parametrize(
    "disruptions", [[{"kind": "flood"}], [{"kind": "status"}], [{"kind": "hang", "second": 1}], "x"]
)
def test_an_unknown_disruption_is_refused(snowplow, disruptions):
    assert snowplow.http.post("/-/faults", json=disruptions).status_code == 400


def test_the_clock_can_be_moved_over_http(snowplow, clock):
    begin = clock()
    assert snowplow.http.post("/-/clock", json={"advance": 60}).json() == {"now": begin + 60}
    assert snowplow.http.post("/-/clock", json={"now": begin}).json() == {"now": begin}
    assert clock() == begin


def test_real_time_cannot_be_moved(world):
    with SnowplowSimulator(world) as simulator:
        assert httpx.post(simulator.url + "/-/clock", json={"advance": 60}).status_code == 409


def test_the_date_of_a_response_is_the_simulators_own(snowplow):
    assert snowplow.window().headers["Date"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_many_clients_at_once_all_get_a_response(simulator, snowplow):
    token = snowplow.http.headers["Authorization"]
    statuses = []

    def ask():
        with httpx.Client(base_url=simulator.url, headers={"Authorization": token}) as http:
            statuses.extend(http.get(snowplow.runs_path + "?from=PT-1H&to=PT0S").status_code for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 160
    assert simulator.log.counts()["runs", 200] == 160


@pytest.mark.parametrize("vendor", sorted(SIMULATORS))
def test_every_vendor_has_a_demo_and_a_config_to_read_it(vendor, clock):
    with SIMULATORS[vendor].demo(clock, speed=60, seed=1) as simulator:
        config = simulator.source_config("demo")
        assert (config["name"], config["type"], config["base_url"]) == ("demo", vendor, simulator.url)
        truth = httpx.get(simulator.url + "/-/truth").json()
        assert {(run["project"], run["job"]) for run in truth["endings"]} <= {
            (plan.project, plan.name) for plan in PLANS[vendor]
        }
        assert MARK not in str(truth)


def test_the_command_serves_until_it_is_stopped():
    stop, started, said = threading.Event(), threading.Event(), []

    def output(text):
        said.append(text)
        if len(said) == 2:
            started.set()

    options = {"output": output, "until": stop.wait}
    thread = threading.Thread(target=serve, args=("snowplow", "127.0.0.1", 0), kwargs=options)
    thread.start()
    assert started.wait(5)
    source = yaml.safe_load(said[1])["sources"][0]
    assert httpx.get(source["base_url"] + "/-/healthy").json()["vendor"] == "snowplow"
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
