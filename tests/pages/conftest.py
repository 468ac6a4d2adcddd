import httpx
import prometheus_client
import pytest

from exporter.exposition.exposition import Exposition
from exporter.metrics.zero_first import ZeroFirst
from exporter.pages.site import Site
from exporter.web.application import WebHandlers, application
from exporter.web.request_pool import Bounds, RequestPool
from exporter.web.server import WebServer
from tests.pages.fake_reports import Told

RUNBOOKS = "# Runbooks\n\nText.\n\n## JobrunOverdue\n\nLook at `cron`.\n\n<script>alert(1)</script>\n"


@pytest.fixture(scope="session")
def shared():
    """Reports and the server that shows them."""
    told = Told()
    exposition = Exposition(prometheus_client.CollectorRegistry(), ZeroFirst(0, float))
    handling = RequestPool(Bounds(rate=1e6, burst=1e6))
    answers = WebHandlers(
        page=lambda: exposition.page,
        scraped=lambda _: None,
        healthy=lambda: (True, "ok"),
        ready=lambda: (True, "ok"),
        reload=lambda: (True, "ok"),
        routes=Site(told, handling, lambda: RUNBOOKS, version="1.2.3", refresh=0.5).routes,
    )
    with WebServer(application(answers), "127.0.0.1", 0) as server:
        yield told, server
    handling.close()


@pytest.fixture
def told(shared):
    """The reports, as they are before a test changes them."""
    shared[0].begin()
    return shared[0]


@pytest.fixture
def server(shared):
    return shared[1]


@pytest.fixture
def client(told, server):  # noqa: ARG001  # what was told to the test before is forgotten
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
