"""Probes, reload and other routes over real HTTP."""

import threading

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from exporter.web.application import application
from exporter.web.server import WebServer


@pytest.mark.parametrize(("path", "field"), [("/-/healthy", "healthy"), ("/-/ready", "ready")])
def test_a_probe_answers_200_or_503_with_a_sentence(client, exporter, path, field):
    setattr(exporter, field, (True, "all is well"))
    response = client.get(path)
    assert (response.status_code, response.text) == (200, "all is well\n")
    setattr(exporter, field, (False, "not yet"))
    response = client.get(path)
    assert (response.status_code, response.text) == (503, "not yet\n")


def test_reload_returns_200_when_applied(client, exporter):
    response = client.post("/-/reload")
    assert (response.status_code, response.text) == (200, "reloaded\n")
    assert exporter.reloads == 1


def test_reload_returns_500_with_the_problems_when_refused(client, exporter):
    exporter.reload = (False, "sources.0.name: missing")
    response = client.post("/-/reload")
    assert (response.status_code, response.text) == (500, "sources.0.name: missing\n")


def test_reload_is_only_for_post(client, exporter):
    response = client.get("/-/reload")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert exporter.reloads == 0


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://elsewhere.example.com"}],
)
def test_a_page_of_another_site_may_not_reload(client, exporter, headers):
    exporter.reloaded = lambda: pytest.fail("reloaded")
    assert client.post("/-/reload", headers=headers).status_code == 403


def test_own_pages_may_reload(client, exporter):
    exporter.reloaded = lambda: (True, "reloaded")
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": str(client.base_url)}):
        assert client.post("/-/reload", headers=headers).status_code == 200
        exporter.now += 1


def test_reloads_beyond_one_a_second_are_refused_with_the_time_to_wait(client, exporter):
    for status in (200, 429, 429):
        answer = client.post("/-/reload")
        assert answer.status_code == status
    assert answer.headers["retry-after"] == "1"
    exporter.now += 1
    assert client.post("/-/reload").status_code == 200
    assert exporter.reloads == 2


def test_a_second_reload_is_refused_while_one_runs(client, exporter):
    begun, go_on, got = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        return go_on.wait(10), "reloaded"

    exporter.reloaded = slow
    first = threading.Thread(target=lambda: got.append(client.post("/-/reload", timeout=20).status_code))
    first.start()
    assert begun.wait(10)
    exporter.now += 60
    got.append(client.post("/-/reload").status_code)
    go_on.set()
    first.join()
    assert got == [429, 200]


def test_robots_txt_excludes_crawlers(client):
    assert client.get("/robots.txt").text == "User-agent: *\nDisallow: /\n"


def test_under_a_foreign_host_only_metrics_and_probes_are_served(client, exporter):
    exporter.external_url = "https://jobruns.example.com"
    exporter.exposition.publish()
    host = {"Host": "evil.example"}
    assert client.get("/", headers=host).status_code == 421
    assert "https://jobruns.example.com" in client.get("/api/v1/runs", headers=host).text
    assert [client.get(path, headers=host).status_code for path in ("/metrics", "/-/healthy", "/-/ready")] == [200] * 3


def test_no_response_redirects_to_a_host_that_a_request_names(client):
    answer = client.get("/-/healthy/", headers={"Host": "elsewhere.example.com"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_unknown_paths_are_404(client):
    assert client.get("/nothing").status_code == 404
    assert client.get("/metrics/").status_code == 404


def test_other_routes_are_served_too(exporter):
    async def status(_):
        return PlainTextResponse("status")

    app = application(exporter.answers(routes=[Route("/", status), Route("/runs", status)]))
    with WebServer(app, "127.0.0.1", 0) as server:
        for path in ("/", "/runs"):
            assert httpx.get(f"http://127.0.0.1:{server.port}{path}").text == "status"
