"""The JSON API over real HTTP: its responses match its document, and invalid requests are refused."""

import json
import threading
import time
from urllib.parse import quote

import jsonschema
import pytest

from exporter.model import Job, Result, Step
from exporter.queries.filters import JobQuery
from exporter.snapshot.conditions import STATUSES
from exporter.web.api import ENDPOINTS, ROOT
from exporter.web.openapi import document
from exporter.web.request_pool import Bounds
from tests.contract.harness import NOW
from tests.queries.reports_harness import HOSTILE, ReportsHarness, ended, running

DOCUMENT = json.loads(document("test"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Yield a client of a harness that no test changes."""
    harness = ReportsHarness(tmp_path_factory.mktemp("shared"))
    add_runs(harness)
    yield harness.client()
    harness.close()


def conforms(body, schema_name, *, whole=True):
    """Check a body against the OpenAPI document; with `whole`, no other fields are allowed."""
    schemas = json.loads(json.dumps(DOCUMENT["components"]["schemas"]))
    for schema in schemas.values():
        if whole and schema.get("type") == "object" and "properties" in schema:
            schema["additionalProperties"] = False
            if schema_name != "ErrorReport":
                schema["required"] = sorted(schema["properties"])
    root = {"$ref": f"#/components/schemas/{schema_name}", "components": {"schemas": schemas}}
    jsonschema.Draft202012Validator(root).validate(body)


def add_runs(harness):
    """Commit runs of every kind."""
    harness.commit(
        ended("good", NOW + 10),
        ended("bad/../é ?", NOW + 20, "failure", error_type="server"),
        running("open", NOW + 5),
        running("odd", NOW + 5, state=None, unmapped="strange"),
        jobs=[Job(job_id="j", name="daily", project="p", schedule="0 3 * * *", enabled=True, url="https://v.example")],
        steps={
            "good": [Step(name="load", result=Result.SUCCESS, duration=2.0)],
            "bad/../é ?": [Step(name="load", result=Result.FAILURE, start=NOW, end=NOW + 3, dependencies=("x",))],
        },
    )


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("/sources", "SourceList"),
        ("/jobs", "JobList"),
        ("/jobs?status=failing&order=streak&search=DAI&team=&limit=1&page=1&recent=true&source=one", "JobList"),
        ("/problems", "ProblemList"),
        ("/runs", "RunList"),
        ("/runs?limit=1&result=failure&after=2020-01-01T00:00:00Z&before=4e9&project=p&job_name=daily", "RunList"),
        ("/runs/one/" + quote("bad/../é ?", safe=""), "RunPage"),
        ("/runs/one/good?live=false", "RunPage"),
    ],
)
def test_responses_match_the_document(shared, path, record):
    response = shared.get(ROOT + path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    conforms(response.json(), record)


def test_the_document_has_every_endpoint_with_its_response():
    for endpoint in ENDPOINTS:
        operation = DOCUMENT["paths"][ROOT + endpoint.path]["get"]
        reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        assert reference == f"#/components/schemas/{endpoint.response.__name__}"
        assert operation["summary"].endswith(".")
        assert all(parameter["description"] for parameter in operation["parameters"])
    assert len(DOCUMENT["paths"]) == len(ENDPOINTS)


def test_the_document_describes_every_field():
    for name in ("RunReport", "JobReport", "SourceReport", "Problem", "RunPage"):
        properties = DOCUMENT["components"]["schemas"][name]["properties"]
        assert [key for key, schema in properties.items() if not schema.get("description")] == []


def test_the_document_is_served_and_is_openapi(shared):
    response = shared.get(ROOT + "/openapi.json")
    assert response.json() == DOCUMENT
    assert response.json()["openapi"] == "3.1.0"
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_status_filter_has_the_statuses_of_jobs():
    (parameter,) = [each for each in DOCUMENT["paths"][ROOT + "/jobs"]["get"]["parameters"] if each["name"] == "status"]
    assert set(parameter["schema"]["enum"]) == {"", *STATUSES}


@pytest.mark.parametrize(
    ("path", "status", "parameter"),
    [
        ("/runs?limit=501", 400, "limit"),
        ("/runs?limit=0", 400, "limit"),
        ("/runs?limit=-1", 400, "limit"),
        ("/jobs?limit=501", 400, "limit"),
        ("/runs?limit=x", 400, "limit"),
        ("/runs?limit=1&limit=1", 400, "limit"),
        ("/runs?shade=red", 400, "shade"),
        ("/runs?result=well", 400, "result"),
        ("/runs?result=null", 400, "result"),
        ("/runs?state=null", 400, "state"),
        ("/runs?after=nan", 400, "after"),
        ("/runs?before=yesterday", 400, "before"),
        ("/runs?cursor=zz", 400, "cursor"),
        ("/runs?source=two", 400, "source"),
        ("/runs?result=%ff", 400, "query"),
        ("/runs?result", 400, "query"),
        ("/runs?run_id=" + "x" * 9000, 400, "query"),
        ("/jobs?page=0", 400, "page"),
        ("/jobs?status=bad", 400, "status"),
        ("/jobs?recent=maybe", 400, "recent"),
        ("/sources?x=1", 400, "x"),
        ("/runs/one/none", 404, ""),
        ("/runs/two/r", 404, ""),
        ("/runs/one/", 404, ""),
        ("/runs/one", 404, ""),
        ("/nothing", 404, ""),
        ("/", 404, ""),
        ("/runs/one/%ff%00%0a", 404, ""),
        ("/runs/one/good/log?step=load", 403, ""),
    ],
)
def test_an_error_names_the_invalid_parameter(shared, path, status, parameter):
    response = shared.get(ROOT + path)
    assert response.status_code == status, response.text
    conforms(response.json(), "ErrorReport")
    assert response.json().get("parameter", "") == parameter
    assert response.json()["error"].startswith(parameter)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/runs", "/sources", "/openapi.json", "/runs/one/good/log"])
def test_the_api_refuses_other_methods(shared, method, path):
    response = shared.request(method, ROOT + path, content=b"x" * 100_000)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    conforms(response.json(), "ErrorReport")


@pytest.mark.parametrize("path", ["/runs", "/openapi.json", "/nothing", "/runs?x=1"])
def test_every_response_has_security_headers(shared, path):
    headers = shared.get(ROOT + path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_a_head_has_no_body(shared):
    response = shared.head(ROOT + "/runs")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_names_and_ids_come_back_unchanged_and_can_be_queried(harness, evil):
    harness.commit(
        ended(evil, NOW + 10, "failure", job=evil, error_type=evil),
        jobs=[Job(job_id=evil, name=evil, project=evil, url="javascript:alert(1)")],
        steps={evil: [Step(name=evil, result=Result.FAILURE, duration=1.0)]},
    )
    client = harness.client()
    run = client.get(ROOT + "/runs", params={"run_id": evil}).json()["runs"][0]
    assert run["run_id"] == evil
    page = client.get(ROOT + "/runs/one/" + quote(evil, safe=""))
    assert page.status_code == 200, page.text
    assert page.json()["run"] == run
    conforms(page.json(), "RunPage")
    named = {"project": run["project"], "job_name": run["job_name"]}
    assert client.get(ROOT + "/runs", params=named).json()["runs"] == [run]
    assert client.get(ROOT + "/jobs", params=named).json()["jobs"][0]["job_id"] == evil
    assert client.get("http://" + client.base_url.netloc.decode() + ROOT + run["url"]).json()["run"] == run
    assert run["url"].isascii()
    assert not set(run["url"]) & set("<>\"'\n ")
    log = client.get(ROOT + f"/runs/one/{quote(evil, safe='')}/log", params={"step": evil})
    assert log.status_code == 403


@pytest.mark.parametrize("evil", ["", ".", ".."])
def test_an_id_that_browsers_read_as_a_parent_folder_links_to_a_list(harness, evil):
    harness.commit(ended(evil))
    run = harness.client().get(ROOT + "/runs").json()["runs"][0]
    assert run["url"] == f"/runs?source=one&run_id={evil}"


def test_too_many_requests_are_refused_with_the_time_to_wait(make):
    client = make(bounds=Bounds(rate=0.001, burst=2)).client()
    codes = [client.get(ROOT + "/runs") for _ in range(3)]
    assert [each.status_code for each in codes] == [200, 200, 429]
    assert int(codes[-1].headers["retry-after"]) >= 1
    conforms(codes[-1].json(), "ErrorReport")
    assert client.get("/-/healthy").status_code == 200


def test_slow_responses_delay_neither_scrapes_nor_probes(make):
    harness = make(bounds=Bounds(workers=2, queue=1, rate=1000, burst=1000))
    go = threading.Event()
    harness.reporter.runs = lambda _: go.wait(10) and harness.reporter.jobs(JobQuery())
    client = harness.client()
    harness.bench.publisher.publish()
    threads = [threading.Thread(target=client.get, args=(ROOT + "/runs",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 5
    while len(harness.pool._running) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    begun = time.monotonic()
    refused = client.get(ROOT + "/sources")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert client.get("/metrics").status_code == 200
    assert client.get("/-/healthy").status_code == 200
    assert time.monotonic() - begun < 2
    go.set()
    for thread in threads:
        thread.join()
    assert client.get(ROOT + "/sources").status_code == 200


def test_a_response_that_takes_too_long_is_503(make):
    harness = make(bounds=Bounds(timeout=0.05))
    go = threading.Event()
    harness.reporter.runs = lambda _: go.wait(10)
    client = harness.client()
    response = client.get(ROOT + "/runs")
    assert (response.status_code, response.json()["error"]) == (503, "no response in time")
    assert not harness.pool.close()
    go.set()


def test_an_internal_error_shows_no_details(harness):
    harness.reporter.runs = lambda _: int("secret")
    response = harness.client().get(ROOT + "/runs")
    assert response.status_code == 500
    assert "secret" not in response.text
    conforms(response.json(), "ErrorReport")
    assert "request failed" in harness.bench.logs.getvalue()


@pytest.mark.parametrize(
    ("external_url", "server"),
    [("", "/"), ("https://ops.example.com", "/"), ("https://ops.example.com/jobruns/", "/jobruns")],
)
def test_the_document_has_the_prefix_of_the_external_url(external_url, server):
    assert json.loads(document("1", external_url))["servers"] == [{"url": server}]
