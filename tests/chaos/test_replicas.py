"""The short form of `./chaos --layer=replicas`, with real processes. The long form: docs/reliability.md."""

import pytest

from tests.chaos.replicas.replica_chaos import run_replica_chaos

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_killed_replicas_and_failovers_that_lose_commits_have_no_discrepancy():
    only = ("kill -9 at a statement", "kill -9 inside COMMIT", "answer of COMMIT lost", "failover, commits lost")
    outcome = run_replica_chaos("short", kills=12, only=only, seconds=25.0)
    assert outcome.findings == []
    assert outcome.kills >= 2
    assert outcome.disruptions["failovers"] >= 1
    assert outcome.runs > 100
