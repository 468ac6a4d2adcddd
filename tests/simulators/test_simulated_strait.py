"""The simulated Strait answers like a recorded real server, and as its official clients require."""

import httpx
import msgspec
import pytest

from exporter.simulators.clock import Clock
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.strait import StraitOptions, StraitSimulator
from exporter.simulators.strait_rows import StraitShape
from exporter.simulators.world import SimJob

NOW = 1_700_000_000.0


@pytest.fixture
def clock():
    return Clock(NOW)


@pytest.fixture
def world(clock):
    world = ScriptedWorld(clock)
    world.add_job(SimJob(job_id="prod/daily", name="daily", project="prod", schedule="0 3 * * *"))
    world.run("daily", run_id="r", project="prod", start=NOW - 60, duration=5.0)
    world.run(
        "flow", run_id="w", project="prod", start=NOW - 60, duration=30.0, steps=["load", "a/b"], result="failure"
    )
    return world


@pytest.fixture
def simulator(world, clock):
    with StraitSimulator(world, clock) as simulator:
        yield simulator


@pytest.fixture
def http(simulator):
    with httpx.Client(base_url=simulator.url, headers={"Authorization": "Bearer strait_simulated"}) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/runs?status=nonsense", 400, "bad_request"),
        ("/v1/runs?cursor=nonsense", 400, "bad_request"),
        ("/v1/runs?limit=0", 400, "bad_request"),
        ("/v1/runs/unknown", 404, "not_found"),
        ("/v1/runs/a%2Fb", 404, "not_found"),
        ("/v1/jobs/unknown", 404, "not_found"),
        ("/v1/stats", 403, "forbidden"),
    ],
)
def test_errors_have_the_codes_of_the_server(http, path, status, code):
    answer = http.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["request_id"]


def test_a_refused_key_gets_an_error(http):
    answer = http.get("/v1/runs", headers={"Authorization": "Bearer no"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "authentication_required")


def test_an_unknown_path_is_plain_text(http):
    answer = http.get("/v1/nonsense")
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_an_empty_list_is_still_a_list_and_not_null(http):
    assert http.get("/v1/runs?status=executing").json() == {"data": [], "has_more": False}


def test_every_response_shows_one_limit_or_both(http, simulator):
    assert http.get("/v1/runs").headers["x-ratelimit-limit"] == "100000"
    simulator.options = StraitOptions(requests_per_minute=1000, address_requests_per_minute=100)
    headers = http.get("/v1/runs").headers
    assert headers["x-ratelimit-limit"] == "100, 1000"
    assert headers["x-ratelimit-remaining"] == "99, 999"


JOB = {
    *("id", "project_id", "name", "slug", "endpoint_url", "max_attempts", "timeout_secs", "enabled", "paused"),
    *("retry_priority_boost", "version", "version_id", "version_policy", "cron_overlap_policy", "execution_mode"),
    *("queue", "created_at", "updated_at"),
}
WORKFLOW = {"id", "project_id", "name", "slug", "enabled", "version", "version_id", "version_policy", "updated_at"}
WORKFLOW_RUN = {
    *("id", "workflow_id", "project_id", "tags", "status", "triggered_by", "workflow_version", "started_at"),
    *("finished_at", "workflow_version_id", "workflow_snapshot_id", "created_at"),
}
STEP = {"id", "workflow_run_id", "workflow_step_id", "step_ref", "job_run_id", "attempt", "status", "created_at"}
TIMED = {"step_run_id", "step_ref", "status", "duration_ms", "on_critical_path", "wait_ms"}


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/jobs", JOB), ("/v1/workflows", WORKFLOW), ("/v1/workflow-runs", WORKFLOW_RUN)],
)
def test_rows_have_the_fields_of_real_ones(http, path, fields):
    (row,) = http.get(path).json()["data"]
    assert fields <= row.keys()
    assert "webhook_secret" not in row
    assert "/" not in row["id"]


def test_steps_and_timeline_have_the_fields_of_real_ones(http):
    steps = http.get("/v1/workflow-runs/w/steps").json()["data"]
    assert all(step.keys() >= STEP and "/" not in step["id"] for step in steps)
    timeline = http.get("/v1/workflow-runs/w/timeline").json()
    assert {"workflow_run_id", "status", "started_at", "finished_at", "total_ms", "steps"} <= timeline.keys()
    assert all(step.keys() >= TIMED for step in timeline["steps"])


def test_a_timeline_names_the_steps_that_execute_at_the_same_time(world, http):
    steps = [{"name": "a", "duration": 5}, *({"name": name, "duration": 4, "dependencies": ["a"]} for name in "bc")]
    world.run("flow", run_id="parallel", project="prod", start=NOW - 60, steps=steps)
    shown = http.get("/v1/workflow-runs/parallel/timeline").json()["steps"]
    assert {step["step_ref"]: step.get("parallel_with") for step in shown} == {"a": None, "b": ["c"], "c": ["b"]}


def test_a_job_is_found_by_the_id_of_its_runs(http):
    (run,) = http.get("/v1/runs").json()["data"]
    assert http.get(f"/v1/jobs/{run['job_id']}").json()["slug"] == "daily"
    assert http.get(f"/v1/jobs/{run['job_id']}/health").json()["health_score"] == 100
    assert http.get(f"/v1/jobs/{run['job_id']}/health?window=1y").status_code == 400


def test_dead_letters_and_numbers_of_runs_can_be_requested(http, world, simulator):
    simulator.options = StraitOptions(scopes=frozenset())
    world.run("daily", run_id="d", project="prod", start=NOW - 50, duration=5.0, attempts=2, result="failure")
    world.run("daily", run_id="e", project="prod", start=NOW - 5, duration=50.0)
    assert [row["id"] for row in http.get("/v1/runs/dlq").json()["data"]] == ["d"]
    assert http.get("/v1/stats").json() == {"queued": 0, "executing": 1, "delayed": 0}


def test_a_paused_job_stays_enabled(http, simulator):
    simulator.options = msgspec.structs.replace(simulator.options, rows=StraitShape(paused={"daily": "quota_exceeded"}))
    (job,) = http.get("/v1/jobs").json()["data"]
    assert (job["enabled"], job["paused"], job["pause_reason"]) == (True, True, "quota_exceeded")


def test_the_export_has_every_run_of_a_range_no_matter_how_many(http, world):
    for _ in range(250):
        world.run("daily", project="prod", created=NOW - 30, start=NOW - 30, duration=1.0)
    at = "2023-11-14T22:12:50Z"
    answer = http.get("/v1/export/runs", params={"format": "csv", "from": at, "to": at})
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.text.startswith("id,job_id,status,attempt,triggered_by,created_at,started_at,finished_at,error\n")
    assert answer.text.count(",queued,") == 250
