"""Sources that a reload keeps, and sources that it replaces."""

import copy
from pathlib import Path

import certifi
import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry

from exporter.assembly import Assembly, Clocks, NoPublisher
from exporter.client.budget import for_page
from exporter.config import loads
from exporter.errors import RateLimitedError
from exporter.ledger.ledger import Ledger
from exporter.metrics.requests import RequestMetrics
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state

ALPHA, BETA = (
    {"name": name, "type": "snowplow", "organization_id": name, "auth": {"api_key": f"key of {name}"}}
    for name in ("alpha", "beta")
)
SECOND = {**ALPHA, "name": "second", "jobs": {"include": ["second-.*"]}}


@pytest.fixture
def assembled():
    """Make an assembly that replaces another one."""
    ledger, metrics = Ledger(lambda: open_state(Path(":memory:"), lambda: 0.0)), RequestMetrics(CollectorRegistry())
    clocks = Clocks(transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    made = []

    def make(*sources, before=None, replicas=1, **settings):
        config = loads(yaml.safe_dump({"sources": copy.deepcopy(list(sources)), **settings}), {}, KNOWN_NAMES)
        made.append(Assembly(config, ledger, metrics, NoPublisher(), clocks, before=before, replicas=lambda: replicas))
        return made[-1]

    yield make
    for each in made:
        each.close()


def kept(before, after):
    """Return the names of the sources that are the same objects in both assemblies."""
    old = {polled.name: polled for polled in before.scheduled}
    same = [each.name for each in after.scheduled if each in old.values()]
    for name in same:
        assert after.sources[name] is before.sources[name]
        assert after.clients[name] is before.clients[name]
    return same


@pytest.mark.parametrize(
    ("given", "timestamp"),
    [("2026-12-28", 1798416000), ("2026-12-28T09:00:00+01:00", 1798444800), ("", None), (None, None)],
)
def test_a_configured_credential_expiry_is_exposed_if_the_vendor_has_none(given, timestamp):
    metrics, ledger = RequestMetrics(CollectorRegistry()), Ledger(lambda: open_state(Path(":memory:"), lambda: 0.0))
    clocks = Clocks(transport=httpx.MockTransport(lambda _: httpx.Response(500)))
    for expires in (given, "2030-01-01", given):
        source = {"name": "s", "type": "strait", "auth": {"api_key": "k"}, "credential_expires": expires}
        config = loads(yaml.safe_dump({"sources": [source]}), {}, KNOWN_NAMES)
        Assembly(config, ledger, metrics, NoPublisher(), clocks).close()
    assert metrics.source("s").expiry == timestamp


def test_an_unquoted_yaml_date_is_accepted():
    config = loads(
        yaml.safe_dump({"sources": [ALPHA]}).rstrip() + "\n  credential_expires: 2026-12-28\n", {}, KNOWN_NAMES
    )
    assert config.sources[0].credential_expires == 1798416000


def test_unchanged_sources_are_kept(assembled):
    before = assembled(ALPHA, BETA)
    assert kept(before, assembled(BETA, ALPHA, before=before)) == ["beta", "alpha"]
    assert kept(before, assembled(ALPHA, BETA, before=before, metrics={"max_series": 1000})) == ["alpha", "beta"]


@pytest.mark.parametrize(
    "change",
    [{"poll_interval": "2m"}, {"auth": {"api_key": "another"}}, {"jobs": {"include": ["a"]}}, {"organization_id": "c"}],
)
def test_only_a_changed_source_is_created_again(assembled, change):
    before = assembled(ALPHA, BETA)
    assert kept(before, assembled({**ALPHA, **change}, BETA, before=before)) == ["beta"]


def test_sources_that_share_a_budget_stay_or_change_together(assembled):
    before = assembled(ALPHA, SECOND, BETA)
    assert kept(before, assembled(ALPHA, SECOND, BETA, before=before)) == ["alpha", "second", "beta"]
    slower = {**SECOND, "requests_per_minute": 5}
    assert kept(before, assembled(ALPHA, slower, BETA, before=before)) == ["beta"]
    assert kept(before, assembled(ALPHA, BETA, before=before)) == ["beta"]


def test_a_source_with_tls_files_is_created_again(assembled, tmp_path):
    authority = tmp_path / "ca.pem"
    authority.write_bytes(Path(certifi.where()).read_bytes())
    source = {**ALPHA, "tls": {"ca_file": str(authority)}}
    before = assembled(BETA)
    between = assembled(source, BETA, before=before)
    assert kept(between, assembled(source, BETA, before=between)) == ["beta"]


def test_only_replaced_sources_are_interrupted(assembled):
    before = assembled(ALPHA, BETA)
    after = assembled({**ALPHA, "poll_interval": "2m"}, BETA, before=before)
    before.interrupt(after)
    waits = {name: client._environment.sleep for name, client in before.clients.items()}
    assert waits["alpha"](0.0)
    assert not waits["beta"](0.0)


def test_only_replaced_sources_are_closed(assembled):
    before = assembled(ALPHA, BETA)
    after = assembled({**ALPHA, "poll_interval": "2m"}, BETA, before=before)
    before.close(after)
    assert before.clients["alpha"]._http.is_closed
    assert not before.clients["beta"]._http.is_closed


def test_a_replaced_source_keeps_the_used_budget_of_its_credential(assembled):
    before = assembled(ALPHA)
    before.clients["alpha"]._budget.block(100.0)
    after = assembled({**ALPHA, "poll_interval": "2m"}, before=before)
    assert after.clients["alpha"]._budget is not before.clients["alpha"]._budget
    assert after.clients["alpha"].wait() > 90


def test_run_pages_of_a_replica_use_only_its_part_of_their_share_of_a_budget(assembled):
    budget = assembled({**ALPHA, "requests_per_minute": 60}, replicas=3).clients["alpha"]._budget
    with for_page():
        for _ in range(5):
            budget.acquire(deadline=0.0)
        with pytest.raises(RateLimitedError, match="share"):
            budget.acquire(deadline=0.0)
