import pytest

from exporter.web.origins import is_from_another_site, is_own_host

OURS = "https://jobruns.example.com/jobs"


@pytest.mark.parametrize(
    "host",
    [
        *("jobruns.example.com", "jobruns.example.com:9797", "JOBRUNS.example.com", "jobruns.example.com."),
        *("127.0.0.1", "10.1.2.3:9797", "[::1]", "[fe80::1%eth0]:9797", "localhost:9797", "monitoring:9797", ""),
        *("exporter.monitoring.svc", "exporter.monitoring.svc.cluster.local:9797", "jobs.corp.internal"),
    ],
)
def test_pages_are_served_under_their_own_host_and_private_names(host):
    assert is_own_host(host, OURS)


@pytest.mark.parametrize("host", ["evil.example", "jobruns.example.com.evil.example", "127.0.0.1.evil.example:9797"])
def test_pages_are_not_served_under_a_foreign_host(host):
    assert not is_own_host(host, OURS)
    assert is_own_host(host, "")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost", "origin": "https://localhost:19443"},
        {"host": "localhost:9797", "origin": "http://localhost:9797"},
        {"host": "[::1]", "origin": "https://[::1]:19443"},
        {"host": "internal:9797", "origin": "https://jobruns.example.com"},
        {"host": "localhost", "origin": "https://other.example.com", "sec-fetch-site": "same-origin"},
        {"host": "localhost"},
    ],
)
def test_own_pages_are_recognized_behind_a_proxy(headers):
    assert not is_from_another_site(headers, OURS)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost", "origin": "https://other.example.com"},
        {"host": "localhost:9797", "origin": "http://localhost:8080"},
        {"host": "localhost", "origin": "null"},
        {"host": "", "origin": "https://other.example.com"},
        {"host": "localhost", "origin": "https://[broken"},
        {"host": "localhost", "origin": "http://localhost", "sec-fetch-site": "cross-site"},
    ],
)
def test_pages_of_other_sites_are_recognized(headers):
    assert is_from_another_site(headers, OURS)
    assert is_from_another_site(headers, "")
