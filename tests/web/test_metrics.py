"""`/metrics` over real HTTP."""

import gzip
import socket
import time

import pytest

from exporter.web.negotiation import wants_gzip, wants_openmetrics
from tests.e2e.processes import eventually
from tests.exposition.view_builders import job, view

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;"
    "q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROTOBUF_FIRST = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7," + PROMETHEUS
)


def noted(exporter, number):
    """Returns the pages that scrapes received; each is recorded a moment after its client has it."""
    return eventually(lambda: exporter.scrapes, lambda scrapes: len(scrapes) >= number)


@pytest.fixture
def page(exporter):
    exporter.exposition.update(jobs=[view(job())])
    return exporter.exposition.publish()


@pytest.fixture
def large_page(exporter):
    """Returns a page of about 20 MB: more than all buffers on the way to a client."""
    exporter.exposition.update(jobs=[view(job(key=key, name=f"{key:01000}")) for key in range(2000)])
    return exporter.exposition.publish()


def stuck_reader(server):
    connection = socket.create_connection(("127.0.0.1", server.port))
    connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection


def test_metrics_are_503_before_the_first_page(client, exporter):
    response = client.get("/metrics")
    assert response.status_code == 503
    assert exporter.scrapes == []


@pytest.mark.usefixtures("page")
def test_an_old_page_is_refused_and_its_connection_closed(client, exporter):
    exporter.stale = "the state could not be read for 3 s"
    response = client.get("/metrics")
    assert (response.status_code, response.headers["connection"]) == (503, "close")
    assert response.text == "No metrics now: the state could not be read for 3 s\n"
    assert exporter.scrapes == []


def test_the_text_format_is_the_default(client, page):
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.content == bytes(page.text)
    assert response.headers["content-type"] == TEXT
    assert response.headers["vary"] == "Accept, Accept-Encoding"
    assert "content-encoding" not in response.headers
    assert "server" not in response.headers


@pytest.mark.parametrize("accept", [PROMETHEUS, PROTOBUF_FIRST])
def test_prometheus_gets_compressed_openmetrics(client, page, accept):
    response = client.get("/metrics", headers={"accept": accept, "accept-encoding": "gzip"})
    assert response.headers["content-type"] == OPENMETRICS
    assert response.headers["content-encoding"] == "gzip"
    assert int(response.headers["content-length"]) == page.openmetrics_gzip.length
    assert response.content == bytes(page.openmetrics)


def test_the_text_format_is_served_compressed_too(client, page):
    with client.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as response:
        assert gzip.decompress(b"".join(response.iter_raw())) == bytes(page.text)
        assert response.headers["content-type"] == TEXT


def test_openmetrics_is_served_uncompressed_too(client, page):
    response = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert response.content == bytes(page.openmetrics)
    assert response.headers["content-type"] == OPENMETRICS


def test_head_returns_headers_only_and_is_not_a_scrape(client, page, exporter):
    response = client.head("/metrics")
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == page.text.length
    assert response.content == b""
    assert client.get("/metrics").status_code == 200
    assert noted(exporter, 1) == [page.generation]


@pytest.mark.usefixtures("page")
def test_other_methods_are_refused(client, exporter):
    response = client.post("/metrics")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
    assert exporter.scrapes == []


def test_each_scrape_reports_the_page_that_was_received(client, page, exporter):
    client.get("/metrics")
    later = exporter.exposition.publish()
    client.get("/metrics")
    assert noted(exporter, 2) == [page.generation, later.generation]


def test_a_large_page_arrives_completely(client, large_page):
    assert client.get("/metrics").content == bytes(large_page.text)


@pytest.mark.usefixtures("large_page")
def test_a_stuck_reader_blocks_nobody_and_is_not_a_scrape(server, client, exporter):
    with stuck_reader(server):
        for _ in range(3):
            assert client.get("/metrics", headers={"accept-encoding": "gzip"}).status_code == 200
            assert client.get("/-/healthy").status_code == 200
        assert len(noted(exporter, 3)) == 3


def test_a_stuck_reader_is_disconnected_after_a_while(server, large_page, exporter):
    with stuck_reader(server) as connection:
        time.sleep(0.8)  # the kernel's buffers and the server's patience are real
        connection.settimeout(10)
        got = 0
        while received := connection.recv(1 << 20):
            got += len(received)
    assert 0 < got < large_page.text.length
    assert exporter.scrapes == []


@pytest.mark.usefixtures("large_page")
def test_a_client_that_left_is_not_a_scrape(server, client, exporter):
    with stuck_reader(server) as connection:
        connection.recv(1000)
    client.get("/-/healthy")
    time.sleep(0.2)  # no event shows when the server has noticed
    assert exporter.scrapes == []


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", True),
        ("application/openmetrics-text;q=0.5,text/plain;q=0.5", True),
        ("application/openmetrics-text;q=0.4,text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0.4,*/*;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
        ("application/openmetrics-text;q=nan", False),
        ("APPLICATION/OpenMetrics-Text ; Q=1", True),
        ("application/vnd.google.protobuf", False),
        (PROMETHEUS, True),
        (PROTOBUF_FIRST, True),
    ],
)
def test_openmetrics_is_served_if_it_is_preferred_at_least_as_much(accept, expected):
    assert wants_openmetrics(accept) is expected


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [("", False), ("gzip", True), ("deflate, gzip;q=0.5", True), ("gzip;q=0", False), ("GZIP", True), ("*", False)],
)
def test_gzip_is_served_if_it_is_named(accept_encoding, expected):
    assert wants_gzip(accept_encoding) is expected
