from collections.abc import Iterator

import httpx
import pytest

from exporter.simulators.clock import Clock
from exporter.simulators.disruptions import Drop, LostEnd, Stale
from exporter.simulators.scripted import ScriptedWorld
from exporter.simulators.workato import TOKEN, WorkatoOptions, WorkatoSimulator
from exporter.simulators.workato_rows import WorkatoShape, number_of
from exporter.simulators.world import MARK, SimJob

NOW = 1_700_000_000.0
DAY = 86400.0
CUSTOMER = f"/api/managed_users/{number_of('acme')}"
RECIPES = f"{CUSTOMER}/recipes"
JOBS = f"{RECIPES}/{number_of('acme/orders')}/jobs"


@pytest.fixture
def workato(clock: Clock) -> Iterator[WorkatoSimulator]:
    world = ScriptedWorld(clock)
    world.add_job(SimJob(job_id="acme/orders", name="orders", project="acme"))
    with WorkatoSimulator(world, clock) as simulator:
        yield simulator


@pytest.fixture
def http(workato, tls) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=workato.url, headers=headers, timeout=5, verify=tls) as client:
        yield client


def runs_of(workato, number, **fields):
    """Add runs one second apart, the oldest first."""
    return [
        workato.world.run("orders", project="acme", start=NOW - 1000 + place, duration=0.4, **fields)
        for place in range(number)
    ]


@pytest.mark.parametrize("header", ["", "Bearer other", TOKEN])
def test_without_the_token_everything_is_401(http, header):
    for path in ("/api/managed_users", RECIPES, JOBS):
        answer = http.get(path, headers={"Authorization": header})
        assert (answer.status_code, answer.json()) == (401, {"message": "Unauthorized"})


def test_each_mode_has_its_own_paths(http, workato):
    own = f"/api/recipes/{number_of('acme/orders')}/jobs"
    assert [http.get(path).status_code for path in (JOBS, own)] == [200, 404]
    workato.options = WorkatoOptions(mode="developer")
    assert [http.get(path).status_code for path in (JOBS, own)] == [404, 200]


@pytest.mark.parametrize(
    "path",
    [
        "/api/managed_users?per_page=101",
        "/api/managed_users?page=0",
        f"{RECIPES}?page=x",
        f"{JOBS}?limit=5",
        f"{JOBS}?status=done",
    ],
)
def test_an_unknown_request_is_400(http, path):
    assert http.get(path).status_code == 400


def test_customers_are_known_by_number_and_by_external_id(http):
    assert http.get("/api/managed_users").json()["result"][0]["external_id"] == "acme"
    assert http.get("/api/managed_users/Eacme/recipes").status_code == 200
    assert http.get("/api/managed_users/acme/recipes").status_code == 404


def test_a_customer_may_be_unreadable(http, workato):
    workato.options = WorkatoOptions(unreadable={"acme": 403})
    assert [http.get(path).status_code for path in ("/api/managed_users", RECIPES, JOBS)] == [200, 403, 403]


def test_recipes_are_listed_by_id_descending_with_counts_and_code(http, workato):
    for name in range(5):
        workato.world.add_job(SimJob(job_id=f"acme/{name}", name=str(name), project="acme"))
    runs_of(workato, 3)
    runs_of(workato, 2, result="failure")
    rows = http.get(RECIPES, params={"exclude_code": "true"}).json()["result"]
    ids = [row["id"] for row in rows]
    assert ids == sorted(ids, reverse=True)
    orders = next(row for row in rows if row["name"] == "orders")
    assert (orders["job_succeeded_count"], orders["job_failed_count"]) == (3, 2)
    assert not any(row["code"] for row in rows)
    assert len(http.get(RECIPES, params={"per_page": "2", "page": "3"}).json()["result"]) == 2
    assert len(http.get(RECIPES, params={"per_page": "1"}).content) > 100_000


def test_job_pages_have_25_newest_first_and_continue_after_an_id(http, workato):
    runs = [run.run_id for run in runs_of(workato, 60)][::-1]
    offset, seen = {}, []
    while rows := http.get(JOBS, params=offset).json()["items"]:
        assert len(rows) <= 25
        seen += [row["id"] for row in rows]
        offset = {"offset_job_id": rows[-1]["id"], "prev": "false"}
    assert seen == runs
    newer = http.get(JOBS, params={"offset_job_id": runs[30], "prev": "true"}).json()["items"]
    assert [row["id"] for row in newer] == runs[5:30]
    assert http.get(JOBS, params={"offset_job_id": "j-none"}).status_code == 404


def test_a_long_job_does_not_return_to_the_first_page_when_it_ends(http, workato, clock):
    run = workato.world.run("orders", project="acme", start=NOW - 2000, duration=2000)
    runs_of(workato, 30)
    clock.advance(60)
    assert run.run_id not in [row["id"] for row in http.get(JOBS).json()["items"]]
    workato.options = WorkatoOptions(order="end")
    assert http.get(JOBS).json()["items"][0]["id"] == run.run_id


def test_open_jobs_can_be_filtered_and_are_counted(http, workato):
    runs_of(workato, 30)
    run = workato.world.run("orders", project="acme", start=NOW - 2000, result=None)
    answer = http.get(JOBS, params={"status": "pending"}).json()
    assert [row["id"] for row in answer["items"]] == [run.run_id]
    assert (answer["job_scope_count"], answer["job_count"]) == (1, 30)


def test_lists_cut_times_to_seconds_and_details_do_not(http, workato):
    run = workato.world.run("orders", project="acme", start=NOW - 100.25, duration=0.5)
    row = http.get(JOBS).json()["items"][0]
    detail = http.get(f"{JOBS}/{run.run_id}").json()
    assert [row[name][19:] for name in ("started_at", "completed_at")] == [".000-07:00"] * 2
    assert detail["started_at"][20:] == "750-07:00"


def test_a_detail_has_lines_and_says_whether_it_is_a_repeat(http, workato):
    run = runs_of(workato, 1, steps=["load", "send"], result="failure", attempts=2)[0]
    detail = http.get(f"{JOBS}/{run.run_id}").json()
    assert [line["adapter_operation"] for line in detail["lines"]] == ["load", "send"]
    assert [bool(line["error"]) for line in detail["lines"]] == [False, True]
    assert detail["is_repeat"] is True
    assert detail["master_job_id"] != detail["id"]
    assert detail["error_parts"]["line_number"] == 1


def test_customer_data_is_in_titles_errors_inputs_and_outputs(http, workato):
    run = runs_of(workato, 1, steps=["load"], result="failure")[0]
    detail = http.get(f"{JOBS}/{run.run_id}").json()
    line = detail["lines"][0]
    texts = (detail["title"], detail["error"], line["error"], str(line["input"]), str(line["output"]))
    assert all(MARK in text for text in texts)


def test_jobs_are_deleted_after_their_retention_and_counts_may_fall(http, workato, clock):
    runs = runs_of(workato, 3)
    workato.options = WorkatoOptions(retention=DAY, counts="kept")
    clock.advance(2 * DAY)
    assert http.get(JOBS).json()["items"] == []
    assert http.get(f"{JOBS}/{runs[0].run_id}").status_code == 404
    assert http.get(RECIPES).json()["result"][0]["job_succeeded_count"] == 0
    workato.options = WorkatoOptions(retention=DAY)
    assert http.get(RECIPES).json()["result"][0]["job_succeeded_count"] == 3


def test_limits_are_by_kind_of_endpoint(http, workato, clock):
    workato.options = WorkatoOptions(jobs_per_minute=2, users_per_minute=1, retry_after=True)
    assert [http.get(JOBS).status_code for _ in range(3)] == [200, 200, 429]
    assert [http.get("/api/managed_users").status_code for _ in range(2)] == [200, 429]
    assert http.get(RECIPES).status_code == 200
    assert int(http.get(JOBS).headers["Retry-After"]) <= 60
    clock.advance(60)
    assert http.get(JOBS).status_code == 200


def test_rows_can_omit_newer_fields(http, workato):
    runs_of(workato, 1, result="failure", attempts=2)
    shape = WorkatoShape(status=False, error_parts=False, repeats=False, last_run_at=False, scope_count=False)
    workato.options = WorkatoOptions(rows=shape)
    answer = http.get(JOBS).json()
    assert not {"status", "error_parts", "master_job_id"} & answer["items"][0].keys()
    assert "job_scope_count" not in answer
    assert "last_run_at" not in http.get(RECIPES).json()["result"][0]


def test_wrong_responses_can_be_enabled(http, workato):
    run = runs_of(workato, 1)[0]
    workato.disruptions.set([LostEnd(run_ids=(run.run_id,))])
    assert http.get(JOBS).json()["items"][0]["status"] == "pending"
    assert http.get(RECIPES).json()["result"][0]["job_succeeded_count"] == 0
    workato.disruptions.set([Stale(seconds=5000.0)])
    assert http.get(JOBS).json()["items"] == []
    workato.disruptions.set([Drop(share=1.0)])
    assert http.get(RECIPES).json()["result"] == []


def test_options_can_be_set_over_http(http):
    assert http.post("/-/options", json={"page_size": 3}).json()["page_size"] == 3
    assert http.get("/-/options").json()["page_size"] == 3
    assert http.post("/-/options", json={"size": 3}).status_code == 400


def test_the_demo_has_customers_with_recipes_and_jobs(clock, tls):
    with WorkatoSimulator.demo(clock) as simulator:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=simulator.url, headers=headers, timeout=5, verify=tls) as client:
            users = client.get("/api/managed_users").json()["result"]
            assert [user["active_recipe_count"] for user in sorted(users, key=lambda user: user["external_id"])] == [
                2,
                1,
            ]
            recipes = client.get(f"/api/managed_users/{users[0]['id']}/recipes?exclude_code=true").json()["result"]
            jobs = client.get(f"/api/managed_users/{users[0]['id']}/recipes/{recipes[0]['id']}/jobs").json()["items"]
            assert len(jobs) == 25


REQUIRED = {
    "action_applications": list,
    "applications": list,
    "author_name": str,
    "code": str,
    "config": list,
    "copy_count": int,
    "created_at": str,
    "parameters": dict,
    "parameters_schema": list,
    "updated_at": str,
    "version_author_email": str,
    "version_author_name": str,
    "version_no": int,
}
"""Fields of a recipe that clients need and the exporter does not read, with their types."""


@pytest.mark.parametrize("excluded", [True, False])
def test_a_recipe_has_every_field_that_clients_need(http, excluded):
    (row,) = http.get(RECIPES, params={"exclude_code": str(excluded).lower()}).json()["result"]
    assert {name: type(row[name]) for name in REQUIRED} == REQUIRED
    assert bool(row["code"]) is not excluded
    assert http.get(f"{RECIPES}/{row['id']}").json()["name"] == "orders"
    assert http.get(f"{RECIPES}/17").status_code == 404


def test_the_key_around_recipes_depends_on_the_mode(http, workato):
    assert list(http.get(RECIPES).json()) == ["result"]
    workato.options = WorkatoOptions(mode="developer")
    assert list(http.get("/api/recipes").json()) == ["items"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("running=true", ["orders"]),
        ("running=false", ["stopped"]),
        ("stop_cause=trigger_errors_limit", ["stopped"]),
        ("stop_cause=trial_expired", []),
        ("order=activity", ["orders", "stopped"]),
        ("includes[]=tags", ["orders", "stopped"]),
        ("adapter_names_any=connector,other", ["orders", "stopped"]),
        ("adapter_names_all=other", []),
        ("folder_id=1&with_subfolders=true", ["orders", "stopped"]),
        ("folder_id=2", []),
        (f"since_id={number_of('acme/orders')}", ["stopped"] * (number_of("acme/stopped") < number_of("acme/orders"))),
        ("since_id=1", []),
    ],
)
def test_the_documented_parameters_of_recipes_do_what_they_say(http, workato, query, names):
    workato.world.add_job(SimJob(job_id="acme/stopped", name="stopped", project="acme", enabled=False))
    rows = http.get(f"{RECIPES}?{query}").json()["result"]
    assert sorted(row["name"] for row in rows) == names
    assert all("tags" in row for row in rows) is ("includes" in query or not rows)


@pytest.mark.parametrize("query", ["running=maybe", "stop_cause=boredom", "order=size", "shade=red", "since_id=x"])
def test_invalid_recipe_queries_are_400(http, query):
    assert http.get(f"{RECIPES}?{query}").status_code == 400


def test_per_page_does_not_change_pages_of_jobs(http, workato):
    runs_of(workato, 30)
    assert len(http.get(f"{JOBS}?per_page=100").json()["items"]) == 25
    assert len(http.get(f"{JOBS}?per_page=3").json()["items"]) == 25


def test_a_workspace_shows_its_projects_and_its_user(http, workato):
    workato.options = WorkatoOptions(mode="developer")
    assert [row["folder_id"] for row in http.get("/api/projects").json()] == [1]
    account = http.get("/api/users/me").json()
    assert {type(account[name]) for name in ("id", "active_recipes_count", "root_folder_id")} == {int}


def test_parameters_may_be_ignored(http, workato):
    runs_of(workato, 30)
    first = http.get(JOBS).json()["items"]
    workato.options = WorkatoOptions(ignored=frozenset({"offset_job_id"}))
    assert http.get(f"{JOBS}?offset_job_id={first[-1]['id']}").json()["items"] == first
