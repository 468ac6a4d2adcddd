"""Long names without a place to break them: every table keeps its layout, at every width."""

import os

import pytest
from playwright.sync_api import sync_playwright

from exporter.model import Result
from tests.e2e.processes import require_tool
from tests.pages import fake_reports as made
from tests.pages.browser_harness import FLAGS

pytestmark = pytest.mark.e2e

LONG = "marketing_attribution_incremental_" * 6
LONG = LONG[:200]  # longer names are truncated
WIDTHS = (390, 900, 1280, 1500)
HIGHEST_ROW = 720
"""Pixels: a row with a name of 200 characters in a narrow column, not one with a letter per line."""

LAYOUT = """() => {
  const width = document.documentElement.clientWidth
  const rows = [...document.querySelectorAll('.problems li, tbody tr')]
  const texts = [...document.querySelectorAll('.problems p, tbody td, tbody th, .facts dd, .trail, h1')]
  return {
    wider: document.documentElement.scrollWidth - width,
    cut: [...document.querySelectorAll('.sheet:not(.scroll)')]
      .filter(each => each.scrollWidth > each.clientWidth).length,
    highest: Math.max(0, ...rows.map(each => each.getBoundingClientRect().height)),
    narrow: texts.filter(each => each.innerText.length > 20 && each.getBoundingClientRect().width < 80)
      .map(each => each.innerText.slice(0, 40)),
    fields: [...document.querySelectorAll('input[placeholder]')].filter(each => {
      const pen = document.createElement('canvas').getContext('2d')
      pen.font = getComputedStyle(each).font
      return pen.measureText(each.placeholder).width > each.clientWidth - 24
    }).map(each => each.placeholder),
  }
}"""


@pytest.fixture(scope="module")
def browser():
    chromium = require_tool("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def long(reports):
    """The reports, in which every name has 200 characters."""
    where = {"source": LONG, "project": LONG, "job_name": LONG}
    reports.listed_sources = (
        *made.ALL_BROKEN,
        made.source(LONG, last_error=f"GET /{LONG}: 500", up=False, unreadable=(LONG,), scopes_unreadable=1),
    )
    reports.listed_problems = (
        made.problem(subject=f"{LONG} / {LONG} / {LONG}", sentence=f"The last 3 runs of {LONG} failed in {LONG}."),
        made.problem(
            subject=f"snow / prod / {LONG}", sentence="The last 3 runs failed in load, and this is the third."
        ),
        made.problem(),
    )
    reports.listed_jobs = (
        made.failing(LONG, source=LONG, project=LONG, failed_step=LONG, team=LONG, schedule=LONG),
        made.failing("short"),
        made.job(LONG),
    )
    run = made.run(LONG, **where, error_type=LONG)
    reports.listed_runs = (run, made.run())
    steps = (made.step(LONG, 0, 20), made.step(LONG[:-1], 20, 88, Result.FAILURE, after=[LONG]))
    page = made.run_page(run=run, steps=steps, failed_step=LONG[:-1], previous=(run,), job=made.failing(LONG))
    reports.pages = {("snow", "run-8"): page}
    return reports


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", ["/", "/runs", "/runs/snow/run-8", "/runs/snow/run-8/log?step=load"])
@pytest.mark.usefixtures("long")
def test_a_name_without_a_place_to_break_keeps_the_layout(browser, server, path, width):
    with browser.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}{path}")
        if folder := os.environ.get("JOBRUN_PICTURES"):
            page.screenshot(path=f"{folder}/{path.replace('/', '_').partition('?')[0]}-{width}.png", full_page=True)
        seen = page.evaluate(LAYOUT)
    assert (seen["wider"], seen["cut"], seen["narrow"], seen["fields"]) == (0, 0, [], [])
    assert seen["highest"] <= HIGHEST_ROW
