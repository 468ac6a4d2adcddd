from typing import Any

import httpx
import prometheus_client
import pytest

from exporter.metrics.zero_first import ZeroFirst
from exporter.pages.site import Site
from exporter.web.application import WebHandlers, application
from exporter.web.request_pool import Bounds, RequestPool
from exporter.web.server import WebServer
from tests.exposition.view_builders import Pages
from tests.pages.fake_reports import FakeReports

RUNBOOKS = "# Runbooks\n\nText.\n\n## JobrunOverdue\n\nLook at `cron`.\n\n<script>alert(1)</script>\n"


@pytest.fixture(scope="session")
def shared():
    """Yield reports and the server of their pages."""
    reports: Any = FakeReports()
    exposition = Pages(prometheus_client.CollectorRegistry(), ZeroFirst(0, float))
    pool = RequestPool(Bounds(rate=1e6, burst=1e6))
    answers = WebHandlers(
        page=lambda: exposition.page,
        scraped=lambda _: None,
        healthy=lambda: (True, "ok"),
        ready=lambda: (True, "ok"),
        reload=lambda: (True, "ok"),
        routes=Site(reports, pool, lambda: RUNBOOKS, version="1.2.3", refresh=0.5).routes,
    )
    with WebServer(application(answers), "127.0.0.1", 0) as server:
        yield reports, server
    pool.close()


@pytest.fixture
def reports(shared):
    """Return the reports as they are before a test changes them."""
    shared[0].begin()
    return shared[0]


@pytest.fixture
def server(shared):
    return shared[1]


@pytest.fixture
def client(reports, server):  # noqa: ARG001  # resets the reports after the previous test
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
