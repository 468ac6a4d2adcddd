import httpx
import prometheus_client
import pytest

from exporter.exposition import Exposition
from exporter.handling import Handling
from exporter.holds import Holds
from exporter.pages.site import Site
from exporter.web import Answers, application
from exporter.webserver import WebServer
from tests.pages.told import Told

RUNBOOKS = "# Runbooks\n\nText.\n\n## JobrunOverdue\n\nLook at `cron`.\n\n<script>alert(1)</script>\n"


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def server(told):
    exposition = Exposition(prometheus_client.CollectorRegistry(), Holds(0, float))
    handling = Handling()
    site = Site(told, handling, lambda: RUNBOOKS, version="1.2.3", refresh=0.5)
    answers = Answers(
        page=lambda: exposition.page,
        scraped=lambda _: None,
        healthy=lambda: (True, "ok"),
        ready=lambda: (True, "ok"),
        reload=lambda: (True, "ok"),
        routes=site.routes,
    )
    with WebServer(application(answers), "127.0.0.1", 0) as server:
        yield server
    handling.close()


@pytest.fixture
def client(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        yield client
