import time
from email.utils import parsedate_to_datetime

import httpx
import pytest

from exporter.simulators.disruptions import (
    Drop,
    Duplicate,
    Garbage,
    Half,
    Hang,
    Html,
    Huge,
    Late,
    LostEnd,
    Nameless,
    Outage,
    Redirect,
    Reset,
    Shuffle,
    Slow,
    Stale,
    Status,
)
from exporter.simulators.snowplow import SnowplowSimulator


@pytest.fixture
def ten_runs(world, clock):
    return [world.run("a", start=clock() - 1000 + 50 * number, duration=20) for number in range(10)]


def ids(rows):
    return [row["runId"] for row in rows]


def test_a_disruption_without_a_count_lasts_until_it_is_cleared(snowplow, simulator):
    simulator.disruptions.add(Status(code=503))
    assert [snowplow.window().status_code for _ in range(3)] == [503, 503, 503]
    simulator.disruptions.clear()
    assert snowplow.window().status_code == 200


def test_a_counted_disruption_is_used_up(snowplow, simulator):
    simulator.disruptions.add(Status(code=500, count=2))
    assert [snowplow.window().status_code for _ in range(3)] == [500, 500, 200]
    assert simulator.disruptions.current() == ()


@pytest.mark.parametrize("by_template", [False, True])
def test_a_disruption_affects_its_endpoint_only(snowplow, simulator, by_template):
    route = next(route for route in simulator.routes() if route.endpoint == "run")
    simulator.disruptions.add(Status(code=503, endpoint=route.template if by_template else route.endpoint))
    assert snowplow.window().status_code == 200
    assert snowplow.run("x").status_code == 503


def test_an_injected_error_can_affect_one_run_only(snowplow, simulator):
    simulator.disruptions.add(Status(code=503, endpoint="run", path="/unreadable"))
    assert snowplow.run("unreadable").status_code == 503
    assert snowplow.run("x").status_code == 404


def test_a_disruption_happens_as_often_as_its_probability_says(snowplow, simulator):
    simulator.disruptions.add(Status(code=503, probability=0.5))
    failed = [snowplow.window().status_code for _ in range(200)].count(503)
    assert 70 < failed < 130


def test_the_same_seed_repeats_the_same_disruptions(world, clock):
    def failures(seed):
        with SnowplowSimulator(world, clock, seed=seed) as simulator, httpx.Client(base_url=simulator.url) as http:
            simulator.disruptions.add(Status(code=503, probability=0.5))
            return [http.get("/anything").status_code for _ in range(30)]

    assert failures(1) == failures(1) != failures(2)


def test_the_control_api_never_fails(snowplow, simulator):
    simulator.disruptions.add(Status(code=503), Reset())
    assert snowplow.http.get("/-/healthy").status_code == 200


@pytest.mark.parametrize(
    ("body", "content_type", "start"),
    [
        ("vendor", "application/json", '{"message"'),
        ("html", "text/html", "<!DOCTYPE"),
        ("empty", "text/plain", ""),
        ("text", "text/plain", "upstream"),
    ],
)
def test_an_error_comes_in_the_body_that_was_chosen(snowplow, simulator, body, content_type, start):
    simulator.disruptions.add(Status(code=502, body=body))
    answer = snowplow.window()
    assert (answer.headers["Content-Type"], answer.text[: len(start)]) == (content_type, start)


def test_a_429_gives_the_retry_time_in_seconds(snowplow, simulator):
    simulator.disruptions.add(Status(code=429, retry_after=7))
    assert snowplow.window().headers["Retry-After"] == "7"


def test_a_429_gives_the_retry_time_as_a_date(snowplow, simulator, clock):
    simulator.disruptions.add(Status(code=429, retry_after=90, retry_after_form="date"))
    assert parsedate_to_datetime(snowplow.window().headers["Retry-After"]).timestamp() == clock() + 90


def test_a_429_may_have_no_retry_time(snowplow, simulator):
    simulator.disruptions.add(Status(code=429))
    assert "Retry-After" not in snowplow.window().headers


def test_a_web_page_comes_with_200(snowplow, simulator):
    simulator.disruptions.add(Html())
    answer = snowplow.window()
    assert (answer.status_code, answer.text[:9]) == (200, "<!DOCTYPE")


def test_json_of_a_wrong_shape_comes_with_200(snowplow, simulator):
    simulator.disruptions.add(Garbage())
    assert "unexpected" in snowplow.window().json()


def test_a_huge_body_is_as_large_as_configured(snowplow, simulator):
    simulator.disruptions.add(Huge(mebibytes=2))
    assert len(snowplow.window().content) == 2 * 1024 * 1024 + 4


def test_a_redirect_has_another_location(snowplow, simulator):
    simulator.disruptions.add(Redirect(location="http://127.0.0.1:1/x", code=307))
    answer = snowplow.window()
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://127.0.0.1:1/x")


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_reset_sends_no_response(snowplow, simulator, abruptly):
    simulator.disruptions.add(Reset(abruptly=abruptly, count=1))
    with pytest.raises(httpx.RemoteProtocolError if not abruptly else httpx.NetworkError):
        snowplow.window()
    assert snowplow.window().status_code == 200


@pytest.mark.usefixtures("ten_runs")
def test_half_a_response_breaks_off(snowplow, simulator):
    simulator.disruptions.add(Half())
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        snowplow.window()


def test_a_hanging_response_is_too_late_for_a_short_timeout(snowplow, simulator):
    simulator.disruptions.add(Hang())
    with pytest.raises(httpx.ReadTimeout):
        snowplow.http.get(snowplow.runs_path, timeout=0.05)


def test_a_hanging_response_arrives_eventually(snowplow, simulator):
    simulator.disruptions.add(Hang(seconds=0.1))
    begin = time.monotonic()
    assert snowplow.window().status_code == 200
    assert time.monotonic() - begin >= 0.1


def test_stopping_the_simulator_ends_hanging_responses(world, clock):
    simulator = SnowplowSimulator(world, clock).start()
    simulator.disruptions.add(Hang())
    with httpx.Client() as http, http.stream("GET", simulator.url + "/-/healthy"):
        pass
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(simulator.url, timeout=0.05)
    begin = time.monotonic()
    simulator.stop()
    assert time.monotonic() - begin < 2


def test_stopping_the_simulator_ends_idle_connections(world, clock):
    with httpx.Client() as http:
        with SnowplowSimulator(world, clock) as simulator:
            assert http.get(simulator.url + "/-/healthy").status_code == 200
        with pytest.raises(httpx.TransportError):
            http.get(simulator.url + "/-/healthy")


def test_a_slow_response_comes_in_chunks(snowplow, simulator):
    simulator.disruptions.add(Slow(chunk=1, pause=0.02))
    begin = time.monotonic()
    assert snowplow.window().json() == []
    assert time.monotonic() - begin >= 0.04


def test_an_outage_lasts_from_one_time_to_another(snowplow, simulator, clock):
    simulator.disruptions.add(Outage(since=clock() + 10, until=clock() + 20))
    assert snowplow.window().status_code == 200
    clock.advance(10)
    with pytest.raises(httpx.TransportError):
        snowplow.window()
    clock.advance(10)
    assert snowplow.window().status_code == 200


def test_a_stopped_simulator_refuses_connections_and_comes_back_on_its_port(world, clock):
    simulator = SnowplowSimulator(world, clock).start()
    url = simulator.url
    simulator.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
    with simulator:
        assert simulator.url == url
        assert httpx.get(url + "/-/healthy").status_code == 200


# --- wrong answers


def test_a_stale_response_shows_an_earlier_state(snowplow, simulator, world, clock):
    ended = world.run("a", start=clock() - 200, duration=150)
    world.run("a", start=clock() - 50, duration=10)
    simulator.disruptions.add(Stale(seconds=100))
    assert [(row["runId"], row["state"]) for row in snowplow.rows()] == [(ended.run_id, "RUNNING")]


def test_late_events_become_visible_after_their_delay(snowplow, simulator, world, clock):
    run = world.run("a", start=clock() - 10, duration=5)
    simulator.disruptions.add(Late(seconds=60))
    assert snowplow.rows() == []
    assert snowplow.run(run.run_id).status_code == 404
    clock.advance(52)
    assert snowplow.rows()[0]["state"] == "RUNNING"
    clock.advance(10)
    assert snowplow.rows()[0]["state"] == "SUCCEEDED"


@pytest.mark.usefixtures("ten_runs")
def test_a_share_of_the_runs_is_late_and_always_the_same(snowplow, simulator):
    simulator.disruptions.add(Late(seconds=5000, share=0.5))
    first, second = ids(snowplow.rows()), ids(snowplow.rows())
    assert first == second
    assert 0 < len(first) < 10


def test_a_lost_end_keeps_selected_runs_running_forever(snowplow, simulator, ten_runs, clock):
    simulator.disruptions.add(LostEnd(run_ids=(ten_runs[3].run_id,)))
    clock.advance(86000)
    assert snowplow.run(ten_runs[3].run_id).json()["state"] == "RUNNING"
    assert [row["state"] for row in snowplow.rows()].count("RUNNING") == 1


@pytest.mark.usefixtures("ten_runs")
def test_a_lost_end_can_apply_to_one_job(snowplow, simulator):
    simulator.disruptions.add(LostEnd(job_ids=("prod/a",)))
    assert {row["state"] for row in snowplow.rows()} == {"RUNNING"}


def test_dropped_rows_are_missing(snowplow, simulator, ten_runs):
    simulator.disruptions.add(Drop(share=0.5))
    shown = ids(snowplow.rows())
    assert 0 < len(shown) < 10
    assert set(shown) < {run.run_id for run in ten_runs}


def test_duplicated_rows_appear_twice(snowplow, simulator, ten_runs):
    simulator.disruptions.add(Duplicate(share=1.0))
    assert sorted(ids(snowplow.rows())) == sorted([run.run_id for run in ten_runs] * 2)


@pytest.mark.usefixtures("ten_runs")
def test_shuffled_rows_come_in_another_order(snowplow, simulator):
    right = ids(snowplow.rows())
    simulator.disruptions.add(Shuffle())
    assert sorted(ids(snowplow.rows())) == sorted(right)
    assert ids(snowplow.rows()) != right


def test_rows_can_lack_their_ids(snowplow, simulator, ten_runs):
    simulator.disruptions.set([Nameless(run_ids=(ten_runs[3].run_id,))])
    assert [row.get("runId") for row in snowplow.rows()].count(None) == 1
    simulator.disruptions.set([Nameless(share=0.5)])
    assert 0 < [row.get("runId") for row in snowplow.rows()].count(None) < 10


@pytest.mark.usefixtures("ten_runs")
def test_a_wrong_response_does_not_change_the_truth(snowplow, simulator):
    simulator.disruptions.add(Drop(share=1.0), LostEnd(share=1.0))
    assert snowplow.rows() == []
    assert len(snowplow.http.get("/-/truth").json()["endings"]) == 10
