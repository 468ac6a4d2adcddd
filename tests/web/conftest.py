import httpx
import prometheus_client
import pytest

from exporter.metrics.zero_first import ZeroFirst
from exporter.web.application import WebHandlers, application
from exporter.web.server import WebServer
from tests.exposition.view_builders import Pages


class Exporter:
    """The handlers of the web server; a test sets their results."""

    def __init__(self):
        self.exposition = Pages(prometheus_client.CollectorRegistry(), ZeroFirst(0, float))
        self.scrapes = []
        self.healthy = (True, "well")
        self.ready = (True, "ready")
        self.reload = (True, "reloaded")
        self.reloads = 0
        self.external_url = ""
        self.stale = ""
        self.now = 0.0

    def reloaded(self):
        self.reloads += 1
        return self.reload

    def answers(self, **more):
        return WebHandlers(
            page=lambda: self.exposition.page,
            stale=lambda: self.stale,
            scraped=self.scrapes.append,
            healthy=lambda: self.healthy,
            ready=lambda: self.ready,
            reload=lambda: self.reloaded(),  # noqa: PLW0108  # tests set it after this
            external_url=lambda: self.external_url,
            **more,
        )


@pytest.fixture
def exporter():
    return Exporter()


@pytest.fixture
def server(exporter):
    with WebServer(
        application(exporter.answers(), read_timeout=0.5, monotonic=lambda: exporter.now), "127.0.0.1", 0
    ) as server:
        yield server


@pytest.fixture
def client(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers={"accept-encoding": "identity"}) as client:
        yield client
