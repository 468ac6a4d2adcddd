"""The HTML of the pages: their texts in each state; texts from vendors are never markup."""

import re
import threading
import time
from html.parser import HTMLParser

import httpx
import msgspec
import pytest

from exporter.model import Result, State
from exporter.pages.formatting import visible
from exporter.queries.errors import QueryError
from exporter.queries.filters import JobOrder
from tests.pages.fake_reports import ALL_BROKEN, DAY, HOUR, NOW, failing, job, problem, run, run_page, source, step

PAGES = ("/", "/runs", "/runs/snow/run-8", "/runs/snow/run-8/log?step=load", "/runbooks", "/runs/snow/unknown")

HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</textarea></title></svg><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnirts-desrever\u2066",
    "two\nlines\r\n\x00\x1b[31m",
    "n" * 200,
    "&amp;&lt;b&gt;",
    "javascript:alert(1)",
    "../../metrics?x=1#y",
)


class ParsedPage(HTMLParser):
    """Elements, attributes and texts of a page, as a browser reads them."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.names = [], [], []
        self._in_bdi = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def links(self):
        return [attributes["href"] for tag, attributes in self.elements if tag == "a"]


def parsed(response):
    return ParsedPage(response.text)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_forbids_foreign_content(client, path):
    response = client.get(path)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_inline_or_foreign_scripts_or_styles(client, path):
    page = parsed(client.get(path))
    for tag, attributes in page.elements:
        assert tag != "style"
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            address = attributes.get(name) or ""
            assert tag == "a" or "//" not in address
        assert tag != "script" or attributes.get("src")


@pytest.mark.parametrize("path", PAGES)
def test_every_page_has_a_language_a_title_one_heading_and_a_way_past_the_navigation(client, path):
    page = parsed(client.get(path))
    tags = [tag for tag, _ in page.elements]
    assert ("html", {"lang": "en"}) in page.elements
    assert tags.count("h1") == 1
    assert tags.count("title") >= 1
    assert page.links()[0] == "#main"
    ids = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert "1.2.3" in page.text


def test_links_of_every_page_lead_to_something(client):
    for path in PAGES:
        base = httpx.URL(path)
        for link in parsed(client.get(path)).links():
            if (
                not link.startswith(("#", "https://console.example.com"))
                and "api/v1" not in link
                and "metrics" not in link
            ):
                answer = client.get(base.join(link))
                assert answer.status_code in (200, 302, 404), (path, link)
                known = answer.status_code == 404 and ("/run-" in link or "/unknown" in link)
                assert answer.status_code != 404 or known, (path, link)


def name_everything(reports, name):
    """Replace every text from vendors with this one."""
    reports.listed_jobs = (failing(name, project=name, team=name, schedule=name, url=name, failed_step=name),)
    reports.listed_sources = (source(last_error=name, unmapped={name: 2}, unreadable=(name,), scopes_unreadable=1),)
    reports.listed_problems = (problem(subject=name, sentence=name),)
    named = {"job_name": name, "project": name, "error_type": name, "unmapped": name, "vendor_url": name}
    reports.listed_runs = (run(run_id=name, **named), run(run_id="another", **named))
    steps = (step(name, 0, 5, Result.FAILURE), step("load", 5, 10, Result.FAILURE, after=[name]))
    page = run_page(
        run=reports.listed_runs[0], steps=steps, steps_error=name, failed_step=name, previous=reports.listed_runs
    )
    reports.pages["snow", "run-8"] = page
    reports.output = msgspec.structs.replace(reports.output, stdout=name)


def structure(response):
    return [(tag, list(attributes)) for tag, attributes in parsed(response).elements]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_only_ever_text(client, reports, name):
    name_everything(reports, "harmless")
    harmless = [structure(client.get(path)) for path in PAGES]
    name_everything(reports, name)
    for path, same in zip(PAGES, harmless, strict=True):
        response = client.get(path)
        assert structure(response) == same
        assert not [link for link in parsed(response).links() if link.lower().startswith("javascript")]
    assert visible(name) in "".join(parsed(client.get("/")).texts)
    assert name.replace("\r\n", "\n").replace("\0", "\ufffd") in "".join(parsed(client.get(PAGES[3])).texts).replace(
        "\r\n", "\n"
    ).replace("\0", "\ufffd")


def test_a_hostile_search_is_repeated_as_text(client, reports):
    reports.listed_jobs = tuple(job(f"<b>{number}") for number in range(101))
    page = parsed(client.get("/", params={"search": "<b>", "source": "snow"}))
    assert (
        "input",
        {"type": "search", "name": "search", "value": "<b>", "placeholder": "job, project or ID", "maxlength": "200"},
    ) in page.elements
    (following,) = [link for link in page.links() if "page=2" in link]
    assert following == "./?search=%3Cb%3E&source=snow&page=2"


def test_problems_come_first(client, reports):
    reports.listed_problems = (problem(), problem(severity="warning", subject="flow", kind="JobrunSourceCoverageGap"))
    page = parsed(client.get("/"))
    assert (
        page.text.index("1 problem, 1 warning") < page.text.index("snow / prod / sessions") < page.text.index("Sources")
    )
    assert "./runbooks#jobrunlastrunfailed" in page.links()
    assert "./runs?source=snow&project=prod&job_name=sessions" in page.links()


@pytest.mark.parametrize(
    ("severities", "headline"),
    [
        (["info"], "No problems, 1 note"),
        (["warning", "info", "info"], "1 warning, 2 notes"),
        (["critical", "critical", "info"], "2 problems, 1 note"),
    ],
)
def test_the_headline_counts_problems_warnings_and_notes(client, reports, severities, headline):
    reports.listed_problems = tuple(problem(severity=severity) for severity in severities)
    page = parsed(client.get("/"))
    assert f"{headline} · jobrun-exporter" in page.text
    assert [attributes["href"] for tag, attributes in page.elements if tag == "use"].count("#s-question") == 0


def test_a_problem_has_its_start_and_its_team(client, reports):
    reports.listed_problems = (problem(team="data platform"), problem(since=None, team="finance"))
    text = parsed(client.get("/")).text
    assert "The last 3 runs failed in load. 3h ago · data platform" in text
    assert "The last 3 runs failed in load. finance" in text


def test_without_problems_the_page_says_so(client, reports):
    reports.listed_problems = ()
    assert "No problems" in parsed(client.get("/")).text


def test_the_most_urgent_of_many_problems_are_shown_and_the_rest_is_counted(client, reports):
    reports.listed_problems = (problem(),) * 60
    page = parsed(client.get("/"))
    assert "60 problems" in page.text
    assert "and 10 more problems" in page.text


def test_before_the_first_poll_the_page_says_so(client, reports):
    reports.listed_jobs, reports.listed_problems = (), ()
    reports.listed_sources = (
        source(up=None, last_poll=None, last_poll_duration=None, watermark=None, jobs=0, last_outcome=""),
    )
    text = parsed(client.get("/")).text
    assert "No problems" not in text
    assert "Not all sources have been polled yet" in text
    assert "not polled yet" in text
    assert "No jobs yet: the first poll is still running." in text


def test_without_sources_the_page_says_so(client, reports):
    reports.listed_jobs, reports.listed_sources = (), ()
    assert "No source is configured." in parsed(client.get("/")).text


def test_broken_sources_say_what_is_wrong(client, reports):
    reports.listed_sources = ALL_BROKEN
    text = parsed(client.get("/")).text
    for part in (
        "down The API refused the key (401).",
        "partial 2 scopes may not be read.",
        "2h can never be read",
        "responses were truncated, the last 1h ago ; the missing runs are requested again",
        "2 scopes cannot be read: north , south",
        "steps of 1 run are lost",
        "unmapped status paused_by_admin : 3 runs",
        "4 of 100 left",
        "credential expires in 2d",
    ):
        assert part in text, part


def test_truncated_responses_are_not_a_gap_and_are_shown_for_a_day(client, reports):
    reports.listed_sources = (source(truncated=6, last_truncated=NOW - HOUR),)
    text = parsed(client.get("/")).text
    assert "complete read in parts" in text
    assert "gaps" not in text
    reports.listed_sources = (source(truncated=6, last_truncated=NOW - 2 * DAY),)
    text = parsed(client.get("/")).text
    assert "complete" in text
    assert "in parts" not in text


def test_crawlers_do_not_follow_links_to_runs_which_cost_requests(client):
    for path in ("/", "/runs", "/runs/snow/run-8"):
        links = [each for tag, each in parsed(client.get(path)).elements if tag == "a"]
        to_runs = [link for link in links if "runs/snow/" in link["href"] or "runs/snow/" in f"runs/{link['href']}"]
        assert to_runs
        assert {link.get("rel") for link in to_runs} == {"nofollow"}


def test_a_mark_of_a_run_says_what_it_means(client, reports):
    reports.listed_runs = (run(mark="baseline"),)
    titles = [each.get("title") for _, each in parsed(client.get("/runs")).elements if each.get("class") == "tag"]
    assert titles == ["completed before counting started"]


def test_ten_thousand_jobs_come_in_pages_fast_and_small(client, reports):
    reports.listed_jobs = tuple(job(f"job-{number:05}") for number in range(10_000))
    client.get("/")
    began = time.process_time()
    response = client.get("/?page=50")
    assert time.process_time() - began < 1
    page = parsed(response)
    assert "page 50 of 100 · 10,000 jobs" in page.text
    assert len([tag for tag, _ in page.elements if tag == "tr"]) < 110
    assert len(response.text) < 250_000
    assert int(response.headers["content-length"]) < 25_000
    assert {"./?page=49", "./?page=51"} <= set(page.links())


def test_the_form_shows_the_job_filter_of_the_address(client, reports):
    page = parsed(client.get("/?search=ess&source=snow&project=prod&status=failing&order=streak&page=1&team="))
    requested = reports.requested[-1]
    assert (requested.search, requested.source, requested.project, requested.status, requested.team) == (
        "ess",
        "snow",
        "prod",
        "failing",
        "",
    )
    assert requested.order is JobOrder.STREAK
    assert ("option", {"value": "streak", "selected": None}) in page.elements
    assert "Longest streak" in page.text


def test_a_filter_without_matches_offers_a_way_back(client):
    page = parsed(client.get("/?search=nothing-like-this"))
    assert "No job matches." in page.text
    assert "./" in page.links()


def test_the_next_page_repeats_the_run_filter_of_the_address(client, reports):
    reports.listed_runs = tuple(run(f"run-{number}") for number in range(250))
    page = parsed(client.get("/runs?source=snow&project=&result=failure&after=2025-01-01T00:00"))
    requested = reports.requested[-1]
    assert (requested.source, requested.project, requested.result, requested.state) == (
        "snow",
        None,
        Result.FAILURE,
        None,
    )
    assert requested.after == 1735689600.0
    (following,) = [link for link in page.links() if "cursor" in link]
    assert following == "./runs?source=snow&result=failure&after=2025-01-01T00%3A00&cursor=100"
    page = parsed(client.get(httpx.URL("/runs").join(following)))
    assert "run-100" in page.text
    assert "./runs?source=snow&result=failure&after=2025-01-01T00%3A00" in page.links()


@pytest.mark.parametrize("path", ["/", "/runs"])
@pytest.mark.parametrize(("given", "requested"), [("", None), ('""', ""), ("prod", "prod")])
def test_projects_without_a_name_can_be_filtered(client, reports, path, given, requested):
    reports.listed_runs = tuple(run(f"run-{number}") for number in range(250))
    reports.listed_jobs = tuple(job(f"job-{number}") for number in range(250))
    page = parsed(client.get(path, params={"project": given}))
    assert [each for each in reports.requested if hasattr(each, "project")][-1].project == requested
    (field,) = [attributes for tag, attributes in page.elements if attributes.get("name") == "project"]
    assert field["value"] == given
    following = [link for link in page.links() if "cursor" in link or "page=2" in link]
    assert len(following) == 1
    assert httpx.URL(following[0]).params.get("project", "") == given


def test_the_id_of_one_run_leads_to_the_run(client):
    response = client.get("/runs?run_id=run-8")
    assert (response.status_code, response.headers["location"]) == (302, "./runs/snow/run-8")


def test_an_id_that_two_sources_have_gives_a_list(client, reports):
    reports.listed_runs = (run("7"), run("7", source="flow"))
    page = parsed(client.get("/runs?run_id=7"))
    assert {"./runs/snow/7", "./runs/flow/7"} <= set(page.links())


@pytest.mark.parametrize("run_id", [".", ".."])
def test_an_id_that_browsers_read_as_a_parent_folder_gives_a_list(client, reports, run_id):
    reports.listed_runs = (run(run_id),)
    assert client.get("/runs", params={"run_id": run_id}).status_code == 200


@pytest.mark.parametrize("run_id", ["a/b", "a/log", "a?b#c", "100%", "ä ö", "two\nlines"])
def test_a_run_is_found_whatever_its_id_is_made_of(client, reports, run_id):
    reports.pages["snow", run_id] = run_page(run=run(run_id))
    reports.listed_runs = (run(run_id),)
    location = client.get("/runs", params={"run_id": run_id}).headers["location"]
    response = client.get(httpx.URL("/runs").join(location))
    assert response.status_code == 200
    assert visible(run_id) in parsed(response).text
    (log,) = [link for link in parsed(response).links() if "step=load" in link]
    page = httpx.URL("/runs").join(location)
    assert "no space left" in client.get(page.join(log)).text


def test_a_run_page_shows_the_run_its_steps_and_earlier_runs(client):
    page = parsed(client.get("/runs/snow/run-8"))
    for part in (
        "failure failed in load",
        "Duration 1m 30s Usual 1m 95 % within 1m 15s, of 12 successes",
        "load failed first after clean",
        "Dependencies",
        "Output of load",
        "Previous runs",
    ):
        assert part in page.text, part
    assert "https://console.example.com/runs/run-8" in page.links()
    assert "../../runs/snow/run-8/log?step=load" in page.links()


def test_an_active_run_is_shown_without_what_it_lacks(client, reports):
    living = run(result=None, state=State.EXECUTING, end=None, duration=None)
    reports.pages["snow", "run-8"] = run_page(run=living, steps=(), failed_step="", job=None, previous=(), logs=False)
    text = parsed(client.get("/runs/snow/run-8")).text
    for part in ("executing", "active , started 1h ago", "No steps are known yet.", "No earlier run is known."):
        assert part in text
    assert "Output" not in text


def test_output_is_offered_only_if_logs_are_on(client, reports):
    reports.pages["snow", "run-8"] = run_page(logs=False)
    assert not [link for link in parsed(client.get("/runs/snow/run-8")).links() if "/log" in link]
    response = client.get("/runs/snow/run-8/log?step=load")
    assert response.status_code == 403
    assert "output is shown only with web.logs: true" in response.text


def test_output_has_a_page_of_its_own(client):
    text = parsed(client.get("/runs/snow/run-8/log?step=load")).text
    assert "stderr no space left stdout 40 rows" in text


@pytest.mark.parametrize(
    ("path", "status", "part"),
    [
        ("/?page=0", 400, "page"),
        ("/?order=best", 400, "order"),
        ("/?nonsense=1", 400, "nonsense"),
        ("/runs?result=bad", 400, "result"),
        ("/runs?after=yesterday", 400, "after"),
        ("/runs/snow/unknown", 404, "no such run is known"),
        ("/runs/snow/run-8/logs", 404, "no such page"),
        ("/runs/", 404, "no such page"),
    ],
)
def test_an_error_has_a_page_with_its_reason(client, path, status, part):
    response = client.get(path)
    assert response.status_code == status
    assert part in parsed(response).text


@pytest.mark.parametrize(("status", "again"), [(502, None), (503, "5")])
def test_errors_of_vendor_and_state_are_reported(client, reports, status, again):
    def fail(*_):
        raise QueryError(status, "the API gave no answer within 10 s")

    reports.log = fail
    response = client.get("/runs/snow/run-8/log?step=load")
    assert (response.status_code, response.headers.get("retry-after")) == (status, again)
    assert "the API gave no answer within 10 s" in response.text


def test_a_slow_page_does_not_delay_probes(client, reports, server):
    go_on = threading.Event()
    reports.problems = lambda: (go_on.wait(10), ())[1]
    waiting = threading.Thread(target=lambda: httpx.get(f"http://127.0.0.1:{server.port}/"))
    waiting.start()
    try:
        assert client.get("/-/healthy", timeout=2).status_code == 200
        assert waiting.is_alive()
    finally:
        go_on.set()
        waiting.join()


def test_a_page_is_compressed_only_if_the_client_accepts_it(client):
    assert client.get("/").headers["content-encoding"] == "gzip"
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == client.get("/").text


def test_head_returns_headers_only(client):
    response = client.head("/")
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("path", PAGES)
def test_pages_refuse_post(client, path):
    assert client.post(path).status_code == 405


def test_assets_are_checked_for_changes_before_each_use(client):
    page = client.get("/runs/snow/run-8")
    addresses = re.findall(r'(?:href|src)="(\.\./\.\./assets/[^"]+)"', page.text)
    assert len(addresses) == 3
    for address in addresses:
        response = client.get(httpx.URL("/runs/snow/run-8").join(address))
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-cache"
        assert client.get(response.url.path, headers={"If-None-Match": response.headers["etag"]}).status_code == 304
    assert client.get("/assets/secrets.txt").status_code == 404
    assert client.get("/assets/..%2fbase.html").status_code == 404


def test_runbooks_have_the_anchors_that_alerts_link_to_and_no_foreign_html(client):
    page = parsed(client.get("/runbooks"))
    assert ("h2", {"id": "jobrunoverdue"}) in page.elements
    assert "#jobrunoverdue" in page.links()
    assert "<script>alert(1)</script>" in page.text
