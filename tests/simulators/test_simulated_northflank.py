import httpx
import pytest

from exporter.simulators.disruptions import Stale
from exporter.simulators.northflank import NorthflankOptions, NorthflankSimulator
from exporter.simulators.northflank_rows import NorthflankShape
from exporter.simulators.world import MARK, SimJob

NOW = 1_700_000_000.0
HOUR = 3600.0
RUNS = "/v1/projects/prod/jobs/daily/runs"


@pytest.fixture
def northflank(world, clock):
    with NorthflankSimulator(world, clock) as simulator:
        yield simulator


@pytest.fixture
def http(northflank, tls):
    with client_of(northflank, tls) as client:
        yield client


@pytest.fixture
def northflank_option(northflank):
    def replace(**fields) -> None:
        northflank.options = NorthflankOptions(**fields)

    return replace


def client_of(simulator, tls) -> httpx.Client:
    headers = {"Authorization": f"Bearer {simulator.api_token}"}
    return httpx.Client(base_url=simulator.url, headers=headers, timeout=5, verify=tls)


def runs(http, **params) -> list[dict]:
    return http.get(RUNS, params=params).raise_for_status().json()["data"]["runs"]


# --- who may ask


@pytest.mark.parametrize("header", ["", "Bearer wrong", "simulated-token", "Basic simulated-token"])
def test_a_wrong_token_is_refused(http, header):
    assert http.get("/v1/projects", headers={"Authorization": header}).status_code == 401


def test_a_token_of_a_team_is_valid_only_for_the_teams_paths(world, clock, tls):
    world.run("daily")
    with NorthflankSimulator(world, clock, team_id="blue") as simulator, client_of(simulator, tls) as http:
        assert http.get("/v1/teams/blue/projects").status_code == 200
        assert http.get("/v1/teams/red/projects").status_code == 404
        assert http.get("/v1/projects").status_code == 404


def test_projects_and_endpoints_can_be_out_of_reach(http, world, northflank_option):
    world.run("daily")
    northflank_option(unreadable={"prod": 403}, forbidden=frozenset({"projects"}))
    assert http.get("/v1/projects").status_code == 403
    assert http.get("/v1/projects/prod/jobs").status_code == 403
    assert http.get("/v1/projects/other/jobs").status_code == 404


def test_errors_are_objects_or_raw_text(http, northflank_option):
    assert http.get("/v1/projects/none/jobs").json()["error"]["status"] == 404
    northflank_option(errors="text")
    assert http.get("/v1/projects/none/jobs").text == "no such project"


def test_the_limit_is_per_fixed_hour_and_in_every_response(http, clock, northflank_option):
    northflank_option(requests_per_hour=2)
    clock.set(NOW // HOUR * HOUR + 600)
    headers = http.get("/v1/projects").headers
    assert [headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset")] == ["2", "1", "3000"]
    assert http.get("/v1/projects").headers["x-ratelimit-remaining"] == "0"
    refused = http.get("/v1/projects")
    assert (refused.status_code, refused.headers["x-ratelimit-reset"]) == (429, "3000")
    clock.advance(3000)
    assert http.get("/v1/projects").status_code == 200


# --- lists


def test_projects_and_jobs_are_listed(http, world):
    world.add_job(SimJob(job_id="prod/daily", name="daily", project="prod", schedule="0 3 * * *", enabled=False))
    world.run("hourly")
    (project,) = http.get("/v1/projects").json()["data"]["projects"]
    assert (project["id"], project["name"]) == ("prod", "prod")
    cron, manual = http.get("/v1/projects/prod/jobs").json()["data"]["jobs"]
    assert (cron["id"], cron["projectId"], cron["jobType"], cron["suspended"]) == ("daily", "prod", "cron", True)
    assert (manual["jobType"], "suspended" in manual) == ("manual", False)
    assert MARK in str(cron)
    assert MARK in str(project)


def test_a_job_has_its_schedule_in_its_settings(http, world):
    world.add_job(SimJob(job_id="prod/daily", name="daily", project="prod", schedule="0 3 * * *"))
    world.run("hourly")
    job = http.get("/v1/projects/prod/jobs/daily").json()["data"]
    assert job["settings"]["cron"]["schedule"] == "0 3 * * *"
    assert "cron" not in http.get("/v1/projects/prod/jobs/hourly").json()["data"]["settings"]
    assert http.get("/v1/projects/prod/jobs/none").status_code == 404


def test_lists_come_in_pages_too(http, world):
    for number in range(7):
        world.run(f"job{number}")
    first = http.get("/v1/projects/prod/jobs", params={"per_page": 5}).json()
    assert first["pagination"] | {"cursor": ""} == {"hasNextPage": True, "cursor": "", "count": 5}
    params = {"per_page": 5, "cursor": first["pagination"]["cursor"]}
    second = http.get("/v1/projects/prod/jobs", params=params).json()
    assert [job["id"] for job in second["data"]["jobs"]] == ["job5", "job6"]
    assert second["pagination"] == {"hasNextPage": False, "count": 2}


# --- runs


def test_a_run_has_the_documented_fields(http, world):
    world.run("daily", run_id="r1", start=NOW - 100, duration=60.0)
    (row,) = runs(http)
    assert row["runName"].startswith("daily-")
    del row["runName"]
    assert row == {
        "id": "r1",
        "active": 0,
        "backoffLimit": 3,
        "completions": 1,
        "concluded": True,
        "failed": 0,
        "status": "SUCCESS",
        "succeeded": 0,
        "startedAt": "2023-11-14T22:11:40Z",
        "concludedAt": "2023-11-14T22:12:40Z",
    }
    assert http.get(f"{RUNS}/r1").json()["data"] | {"runName": ""} == row | {"runName": ""}
    assert http.get(f"{RUNS}/r2").status_code == 404


def test_a_waiting_run_differs_from_a_running_one(http, world, clock):
    world.run("daily", start=NOW - 10, duration=60.0)
    world.run("daily", created=NOW - 5, start=NOW + 30, duration=60.0)
    (row,) = runs(http)
    assert (row["status"], row["concluded"], row["active"], "concludedAt" in row) == ("RUNNING", False, 1, False)
    clock.advance(30)
    assert len(runs(http)) == 2


@pytest.mark.parametrize(
    ("result", "attempts", "shown"),
    [("success", 3, ("SUCCESS", 2)), ("failure", 3, ("FAILED", 3)), ("cancellation", 1, ("FAILED", 0))],
)
def test_failed_attempts_are_counted(http, world, result, attempts, shown):
    world.run("daily", start=NOW - 100, duration=60.0, result=result, attempts=attempts)
    (row,) = runs(http)
    assert (row["status"], row["failed"]) == shown


@pytest.mark.parametrize(("look", "value"), [("null", None), ("empty", ""), ("absent", "none")])
def test_a_missing_end_has_three_forms(http, world, northflank_option, look, value):
    northflank_option(rows=NorthflankShape(no_end=look, endless_share=1.0))
    world.run("daily", start=NOW - 100, duration=60.0)
    world.run("daily", start=NOW - 10, duration=60.0)
    assert [row.get("concludedAt", "none") for row in runs(http)] == [value, value]


def test_a_page_has_50_runs_by_default_and_100_at_most(http, world):
    for number in range(120):
        world.run("daily", start=NOW - 1000 + number)
    assert len(runs(http)) == 50
    assert len(runs(http, per_page=100)) == 100
    assert len(runs(http, per_page=100, page=2)) == 20
    for size in (0, 101, "x"):
        assert http.get(RUNS, params={"per_page": size}).status_code == 400


def test_cursor_and_page_exclude_each_other_and_an_invalid_cursor_is_refused(http, world):
    world.run("daily")
    assert http.get(RUNS, params={"cursor": "eA==", "page": 2}).status_code == 400
    assert http.get(RUNS, params={"cursor": "eA=="}).status_code == 400
    assert http.get(RUNS, params={"cursor": "!"}).status_code == 400


def test_runs_added_meanwhile_do_not_move_the_page_of_a_cursor(http, world):
    for number in range(10):
        world.run("daily", run_id=f"r{number}", start=NOW - 1000 + number)
    first = http.get(RUNS, params={"per_page": 4}).json()
    world.run("daily", run_id="new", start=NOW - 1)
    rows = runs(http, per_page=4, cursor=first["pagination"]["cursor"])
    assert [row["id"] for row in rows] == ["r5", "r4", "r3", "r2"]


@pytest.mark.parametrize("order", ["newest", "oldest", "shuffled"])
def test_the_order_of_runs_is_an_option_and_the_same_at_every_request(http, world, northflank_option, order):
    northflank_option(order=order)
    for number in range(20):
        world.run("daily", start=NOW - 1000 + number)
    starts = [row["startedAt"] for row in runs(http)]
    expected = {"newest": sorted(starts, reverse=True), "oldest": sorted(starts)}
    assert starts == expected.get(order, starts) == [row["startedAt"] for row in runs(http)]
    assert order != "shuffled" or starts not in (sorted(starts), sorted(starts, reverse=True))


def test_runs_can_be_deleted_and_jobs_be_missing(http, world, northflank_option):
    world.run("daily", start=NOW - 10 * HOUR)
    northflank_option(reach=HOUR)
    assert runs(http) == []
    northflank_option(missing_jobs=frozenset({"prod/daily"}))
    assert http.get(RUNS).status_code == 404
    assert http.get("/v1/projects/prod/jobs").json()["data"]["jobs"] == []


def test_a_stale_response_shows_runs_as_they_were(http, world, northflank):
    world.run("daily", start=NOW - 100, duration=60.0)
    northflank.disruptions.set([Stale(seconds=50)])
    assert runs(http)[0]["status"] == "RUNNING"


def test_the_demo_has_a_larger_limit_the_faster_it_runs():
    assert NorthflankSimulator.demo(speed=60).options.requests_per_hour == 60_000
    assert NorthflankSimulator.demo(speed=0.5).options.requests_per_hour == 1000


def test_options_can_be_set_over_http(http):
    assert http.post("/-/options", json={"requests_per_hour": 5}).json()["requests_per_hour"] == 5


def test_a_project_and_its_jobs_have_the_fields_that_official_clients_want(http, world):
    world.run("a", project="blue")
    listed = http.get("/v1/projects").json()["data"]["projects"][-1]
    project = http.get("/v1/projects/blue").json()["data"]
    (row,) = http.get("/v1/projects/blue/jobs").json()["data"]["jobs"]
    job = http.get("/v1/projects/blue/jobs/a").json()["data"]
    assert http.get("/v1/login").status_code == 200
    assert http.get("/v1/projects/none").status_code == 404
    assert {"id", "uid", "name", "lifecycleStatus"} <= listed.keys()
    assert {"uid", "lifecycleStatus", "cluster", "createdAt", "services", "addons", "jobs"} <= project.keys()
    assert {"id", "uid", "appId", "name", "jobType"} <= project["jobs"][0].keys()
    assert {"uid", "appId", "disabledCI", "disabledCD", "tags", "projectId"} <= row.keys()
    assert {"billing", "cluster", "createdAt", "settings"} <= job.keys()
