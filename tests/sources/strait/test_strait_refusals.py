import httpx
import msgspec
import pytest

from exporter.simulators.disruptions import Status

MINUTE = 60.0


def test_after_a_refused_key_no_request_is_sent_for_five_minutes(simulator, exporter):
    simulator.api_key = "another"
    assert exporter.poll() == "error"
    assert "401" in exporter.disruption
    assert exporter.polled.poller.wait() == 300
    assert len(simulator.log.lines()) == 1, "nothing else is requested with a key that was refused"

    simulator.api_key = "strait_simulated"
    assert exporter.poll(300) == "success"
    assert exporter.polled.poller.wait() == 60


def test_other_failures_are_retried_at_the_usual_time(simulator, exporter):
    simulator.disruptions.set([Status(code=400, count=1)])
    assert exporter.poll() == "partial"
    assert exporter.polled.poller.wait() == 60


def test_a_status_that_worked_before_is_still_requested_after_one_refusal(simulator, exporter):
    exporter.poll()
    simulator.disruptions.set([Status(code=400, endpoint="runs", count=1)])
    assert exporter.poll(60) == "partial"
    simulator.log.clear()
    exporter.poll(60)
    assert len(simulator.log.lines("runs")) == 9


def test_a_refused_key_never_gets_the_address_blocked(simulator, exporter):
    simulator.api_key = "another"
    for _ in range(12):
        exporter.poll(exporter.polled.poller.wait())
    assert {line.status for line in simulator.log.lines()} == {401}


def test_the_key_is_read_again_from_its_file(make_exporter, tmp_path):
    file = tmp_path / "key"
    file.write_text("wrong-one\n")
    exporter = make_exporter(auth={"api_key_file": str(file)})
    assert exporter.poll() == "error"
    file.write_text("strait_simulated\n")
    assert exporter.poll(300) == "success", exporter.disruption


def test_a_key_without_access_to_workflows_reads_the_rest(world, option, exporter):
    option(scopes=frozenset({"jobs:read", "runs:read"}))
    assert exporter.poll() == "partial"
    world.run("daily", duration=5.0)
    assert exporter.poll(60) == "partial"
    assert exporter.completed("daily") == {"success": 1}
    assert {name: scope.readable for name, scope in exporter.ledger.source("strait").scopes.items()} == {
        "": True,
        "workflows": False,
    }
    assert exporter.ledger.source("strait").watermark() is not None


def test_workflows_that_become_readable_get_their_own_baseline(world, option, exporter):
    option(scopes=frozenset({"jobs:read", "runs:read"}))
    exporter.poll()
    world.run("flow", duration=5.0, steps=["a"])
    exporter.poll(60)
    option(scopes=frozenset())
    assert exporter.poll(60) == "success"
    assert exporter.completed("flow") == {}
    world.run("flow", duration=5.0, steps=["a"], result="failure")
    exporter.poll(60)
    assert exporter.completed("flow") == {"failure": 1}


def test_a_key_without_any_permission_fails_the_poll(option, exporter):
    option(scopes=frozenset({"stats:read"}))
    assert exporter.poll() == "error"
    assert "403" in exporter.disruption


def test_a_server_without_workflows_is_read_for_its_runs(world, option, exporter):
    option(workflows=False)
    exporter.poll()
    world.run("daily", duration=5.0)
    exporter.poll(60)
    assert exporter.completed("daily") == {"success": 1}


def test_a_probe_reports_the_missing_permissions_of_a_key(option, exporter):
    assert exporter.source.probe() == "the key may read all that is needed"
    option(scopes=frozenset({"runs:read", "jobs:read"}))
    assert exporter.source.probe() == "the key may not read /workflows, /workflow-runs"
    option(scopes=frozenset({"jobs:read"}))
    with pytest.raises(Exception, match="runs:read"):
        exporter.source.probe()


def test_the_limit_by_address_is_plain_text_with_a_retry_time(simulator, option):
    option(address_requests_per_minute=2)
    with httpx.Client(base_url=simulator.url, headers={"Authorization": "Bearer strait_simulated"}) as http:
        answers = [http.get("/v1/runs") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[2].headers["content-type"].startswith("text/plain")
    assert 0 < int(answers[2].headers["retry-after"]) <= 60


def test_the_limit_of_the_key_is_in_every_response(simulator, option):
    option(requests_per_minute=5)
    with httpx.Client(base_url=simulator.url, headers={"Authorization": "Bearer strait_simulated"}) as http:
        left = [http.get("/v1/runs").headers["x-ratelimit-remaining"] for _ in range(5)]
        refused = http.get("/v1/runs")
    assert left == ["4", "3", "2", "1", "0"]
    assert refused.status_code == 429
    assert refused.json()["error"]["message"] == "too many requests"


def test_ten_bad_sign_ins_block_the_address(simulator, clock):
    with httpx.Client(base_url=simulator.url) as http:
        codes = [http.get("/v1/runs", headers={"Authorization": "Bearer no"}).status_code for _ in range(10)]
        right = {"Authorization": "Bearer strait_simulated"}
        assert codes == [401] * 10
        assert http.get("/v1/runs", headers=right).status_code == 429
        clock.advance(901)
        assert http.get("/v1/runs", headers=right).status_code == 200


@pytest.mark.parametrize(
    ("query", "status"),
    [("limit=0", 400), ("limit=x", 400), ("cursor=yesterday", 400), ("status=done", 400), ("limit=5000", 200)],
)
def test_the_simulated_server_refuses_invalid_parameters(simulator, query, status):
    with httpx.Client(base_url=simulator.url, headers={"Authorization": "Bearer strait_simulated"}) as http:
        assert http.get(f"/v1/runs?{query}").status_code == status


def test_the_simulated_server_omits_rows_of_equal_time_at_a_page_boundary(world, clock, simulator):
    for _ in range(250):
        world.run("busy", created=clock() - 60, duration=5.0)
    with httpx.Client(base_url=simulator.url, headers={"Authorization": "Bearer strait_simulated"}) as http:
        first = http.get("/v1/runs?limit=100").json()
        second = http.get("/v1/runs", params={"limit": 100, "cursor": first["next_cursor"]}).json()
    assert (len(first["data"]), first["has_more"]) == (100, True)
    assert second == {"data": [], "has_more": False}


def test_the_wait_after_a_failure_is_the_same_for_every_vendor(exporter):
    poller = exporter.polled.poller
    assert poller._wait_after(1, "auth") == 300
    poller._rules = msgspec.structs.replace(poller._rules, poll_interval=600.0)
    assert poller._wait_after(1, "auth") == 600
