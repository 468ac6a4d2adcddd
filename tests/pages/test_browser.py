"""The pages in a real browser, over a real daemon and a simulated vendor."""

import re
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from exporter.counting.labels import clean
from tests.e2e.processes import eventually
from tests.pages.browser_harness import BULK, HOSTILE, BrowserHarness, operation

pytestmark = pytest.mark.e2e

PHONE = {"viewport": {"width": 360, "height": 740}}
A_WHILE = 8_000
"""Milliseconds after which a page has looked whether it is still right."""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserHarness]:
    with operation(tmp_path_factory.mktemp("operation")) as running:
        yield running


@pytest.fixture
def page(harness: BrowserHarness) -> Iterator[Page]:
    with harness.page() as page:
        yield page


def go_to_failed_run(page: Page) -> None:
    page.goto("/runs?job_name=sessions&result=failure")
    page.locator("table.runs tbody th a").first.click()
    expect(page.locator("h1.id")).to_be_visible()


def paths(page: Page) -> list[str]:
    """Return a path of every kind of page."""
    go_to_failed_run(page)
    run = re.sub(r"^https?://[^/]+", "", page.url)
    return [
        "/",
        "/?status=failing",
        "/runs?job_name=sessions",
        run,
        f"{run}/log?step=extract",
        "/runbooks",
        "/runs/snow/unknown",
    ]


def passes(page: Page, until: Callable[[], object] = lambda: True) -> None:
    """Advance the clock of the page by eight seconds until a condition holds."""

    def look() -> object:
        page.clock.run_for(A_WHILE)
        page.wait_for_load_state()
        return until()

    eventually(look)


def test_a_problem_leads_to_the_step_that_failed(page):
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_contain_text("problem")
    page.locator(".problems a.subject", has_text="sessions").click()
    expect(page).to_have_url(re.compile("/runs/snow/"))
    failed = page.locator("table.steps tr.first")
    expect(failed).to_have_count(1)
    expect(failed).to_contain_text("<b>load</b>")
    expect(failed).to_contain_text("failed first")
    expect(page.locator("table.steps svg.bar")).to_have_count(4)
    expect(page.locator("svg.graph g.box")).to_have_count(5)
    expect(page.locator("svg.graph path.line")).to_have_count(5)
    expect(page.locator("#previous table tbody tr")).not_to_have_count(0)
    expect(page.get_by_role("link", name="Open in snow")).to_have_attribute(
        "href", re.compile("^https://console.example")
    )


def test_the_status_page_shows_sources_and_jobs(page):
    page.goto("/")
    expect(page.locator("#sources tbody tr")).to_contain_text(["snow"])
    expect(page.locator("#sources")).to_contain_text("up")
    row = page.locator("table.jobs tbody tr", has=page.get_by_role("link", name="sessions", exact=True))
    expect(row).to_contain_text("failing")
    expect(row.locator(".streak")).to_contain_text("3")
    expect(row.get_by_role("img")).to_have_attribute("aria-label", "15 recent runs, 3 failed")


def test_jobs_are_filtered_and_ordered_by_the_address(page):
    page.goto("/")
    page.get_by_label("Search").fill("ORD")
    page.get_by_label("Order").select_option("Name")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"search=ORD.*order=name"))
    expect(page.locator("table.jobs tbody tr")).to_have_count(1)
    page.get_by_role("link", name="All jobs").click()
    expect(page.locator("table.jobs tbody tr")).to_have_count(3 + len(HOSTILE))
    page.locator(".chips a", has_text="failing").click()
    expect(page.locator("table.jobs tbody tr td:first-child")).to_have_text(["failing"] * (1 + len(HOSTILE)))


def test_runs_come_in_pages(page):
    page.goto("/runs?job_name=bulk")
    seen = []
    while True:
        seen += page.locator("table.runs tbody th a").all_inner_texts()
        following = page.get_by_role("link", name="Older")
        if not following.count():
            break
        following.click()
    assert len(seen) == len(set(seen)) == BULK
    page.get_by_role("link", name="Newest").click()
    assert page.locator("table.runs tbody th a").first.inner_text() == seen[0]


def test_runs_are_filtered_by_the_form_and_an_id_leads_to_its_run(page):
    page.goto("/runs")
    page.get_by_label("Job").fill("sessions")
    page.get_by_label("Result").select_option("failure")
    page.get_by_role("button", name="Show").click()
    rows = page.locator("table.runs tbody tr")
    expect(rows).to_have_count(3)
    run_id = page.locator("table.runs tbody th a").first.inner_text()
    page.get_by_label("Run ID").fill(run_id)
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(f"/runs/snow/{run_id}$"))


def test_output_is_fetched_on_demand_and_never_stored(page, harness):
    go_to_failed_run(page)
    address = page.url
    assert "constraint violated" not in page.content()
    page.get_by_role("link", name="Output of <b>load</b>").click()
    expect(page.get_by_label("stderr")).to_contain_text("constraint violated")
    assert page.url == address
    assert page.evaluate("document.activeElement.id") == "answer-title"
    pages_of_state = [path.read_bytes() for path in harness.state.parent.iterdir()]
    assert pages_of_state
    assert not [content for content in pages_of_state if b"constraint violated" in content]


def test_output_has_a_page_without_scripts(harness):
    with harness.page(java_script_enabled=False) as page:
        go_to_failed_run(page)
        page.get_by_role("link", name="Output of <b>load</b>").click()
        expect(page).to_have_url(re.compile(r"/log\?step="))
        expect(page.get_by_label("stderr")).to_contain_text("constraint violated")
        expect(page.locator("#live")).to_be_hidden()


def test_output_is_not_offered_if_logs_are_off(harness):
    with harness.page(base_url=harness.discreet) as page:
        go_to_failed_run(page)
        expect(page.locator("table.steps tr.first")).to_have_count(1)
        expect(page.get_by_role("link", name="Output")).to_have_count(0)


def test_a_new_run_appears_without_a_reload_and_nothing_is_lost(page, harness):
    page.clock.install()
    page.goto("/runs?job_name=arrival")
    expect(page.locator(".empty")).to_contain_text("No run matches")
    page.evaluate("window.same = true")
    harness.world.run("arrival", created=time.time() - 9, duration=5.0, result="failure")
    field = page.get_by_label("Run ID")
    field.fill("half writ")
    passes(page, page.locator("table.runs tbody tr").count)
    expect(page.locator("table.runs tbody tr")).to_have_count(1)
    assert page.evaluate("window.same") is True
    expect(field).to_have_value("half writ")
    expect(field).to_be_focused()
    expect(page.get_by_role("status")).to_have_text("1 run shown")


def test_focus_and_scrolling_stay_while_a_page_changes(harness):
    with harness.page(viewport={"width": 1000, "height": 400}) as page:
        page.clock.install()
        page.goto("/")
        link = page.locator("table.jobs").get_by_role("link", name="orders", exact=True)
        link.focus()
        link.scroll_into_view_if_needed()
        top = link.bounding_box()["y"]
        before = page.locator("#now").inner_html()
        harness.world.run("another problem", created=time.time() - 9, duration=5.0, result="failure")
        passes(page, page.locator(".problems", has_text="another problem").count)
        assert page.locator("#now").inner_html() != before
        expect(link).to_be_focused()
        assert link.bounding_box()["y"] == pytest.approx(top, abs=2)


def test_live_updates_can_be_paused(page):
    page.clock.install()
    page.goto("/")
    requested = []
    page.on("request", lambda request: requested.extend([] if "/assets/" in request.url else [request.url]))
    live = page.get_by_role("button", name="Live")
    live.click()
    expect(page.get_by_role("button", name="Paused")).to_have_attribute("aria-pressed", "false")
    page.clock.run_for(60_000)
    assert requested == []
    page.get_by_role("button", name="Paused").click()
    expect(live).to_have_attribute("aria-pressed", "true")
    passes(page, lambda: requested)


def test_a_page_without_a_connection_says_so_and_recovers(harness):
    with harness.page() as page:
        page.clock.install()
        page.goto("/")
        rows = page.locator("table.jobs tbody tr").count()
        page.route("**/*", lambda route: route.fulfill(status=200, body="not a page"))
        passes(page)
        assert page.locator("table.jobs tbody tr").count() == rows
        page.unroute("**/*")
        page.evaluate("() => { window.connected = fetch; window.fetch = () => Promise.reject(new TypeError('cut')); }")
        passes(page, page.get_by_role("button", name="No answer").count)
        expect(page.get_by_role("button", name="No answer")).to_be_visible()
        page.evaluate("() => { window.fetch = window.connected; }")
        passes(page, page.get_by_role("button", name="Live").count)
        expect(page.get_by_role("button", name="Live")).to_be_visible()


def test_everything_can_be_done_by_the_keyboard(page):
    page.goto("/")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to content")
    expect(skip).to_be_focused()
    assert skip.bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "search":
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.type("sessions")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("search=sessions"))
    link = page.locator("table.jobs").get_by_role("link", name="sessions", exact=True)
    for _ in range(40):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("job_name=sessions"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_followed_to_its_run_and_does_nothing(page, name):
    """`BrowserHarness.page` notices any error."""
    page.goto("/?status=failing")
    rows = page.locator("table.jobs tbody tr")
    expect(rows.first).to_be_visible()
    links = page.locator("table.jobs tbody th > a")
    wanted = f"{urlencode({'job_name': clean(name)})}"
    addresses = [links.nth(number).get_attribute("href") for number in range(links.count())]
    (found,) = [number for number, address in enumerate(addresses) if address.endswith(wanted)]
    links.nth(found).click()
    page.locator("table.runs tbody th a").first.click()
    expect(page.locator("h1.id")).to_be_visible()
    assert page.locator("img, main script").count() == 0
    expect(page.locator(".trail a").last).to_be_visible()


def test_nothing_is_wider_than_a_phone(harness):
    with harness.page(**PHONE) as page:
        for path in paths(page)[:-1]:
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


@pytest.mark.parametrize("width", [981, 1200, 1600])
def test_no_table_is_cut_off(harness, width):
    with harness.page(viewport={"width": width, "height": 800}) as page:
        for path in paths(page)[:4]:
            page.goto(path)
            cut = page.evaluate(
                "[...document.querySelectorAll('.sheet')].filter(s => s.scrollWidth > s.clientWidth).length"
            )
            assert cut == 0, path


def violations(page: Page, path: str, **options: object) -> list[object]:
    """Returns what axe finds on a page: the rule, and the elements that break it."""
    page.goto(path)
    found = Axe().run(page, options=options or None).response["violations"]
    return [(path, each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found]


def test_every_page_is_accessible(page):
    assert [violations(page, path) for path in paths(page)[:-1]] == [[]] * 6


def test_every_page_has_contrast_in_the_dark(harness):
    with harness.page(color_scheme="dark") as page:
        found = [violations(page, path, runOnly=["color-contrast", "link-in-text-block"]) for path in paths(page)[:-1]]
        assert found == [[]] * 6


def test_every_page_is_accessible_on_a_phone(harness):
    with harness.page(**PHONE) as page:
        assert [violations(page, path) for path in paths(page)[:4:3]] == [[]] * 2
