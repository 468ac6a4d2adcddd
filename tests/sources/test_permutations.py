"""The order of a response's rows does not matter."""

import json
from itertools import permutations

import pytest

from exporter.model import Result
from exporter.sources.snowplow import api as snowplow_api
from exporter.sources.workato import api as workato_api

BEFORE, LATER = "2026-11-27T10:00:05Z", "2026-11-27T10:00:09Z"
SNOWPLOW = [
    {"runId": "a", "jobName": "j", "state": "WAITING"},
    {"runId": "a", "jobName": "j", "state": "RUNNING", "startTime": "2026-11-27T10:00:00Z", "duration": "PT1S"},
    {"runId": "a", "jobName": "j", "state": "FAILED", "startTime": "2026-11-27T10:00:00Z", "duration": "PT5S"},
    {"runId": "a", "jobName": "j", "state": "SUCCEEDED", "startTime": "2026-11-27T10:00:00Z", "duration": "PT9S"},
    {"runId": "b", "jobName": "j", "state": "RUNNING", "startTime": "2026-11-27T10:00:00Z"},
    {"runId": "b", "jobName": "j", "state": "HELD", "startTime": "2026-11-27T10:00:00Z"},
]
WORKATO = [
    {"id": "a", "status": "pending", "started_at": None},
    {"id": "a", "status": "pending", "started_at": "2026-11-27T10:00:00Z"},
    {"id": "a", "status": "failed", "started_at": "2026-11-27T10:00:00Z", "completed_at": BEFORE, "is_error": True},
    {"id": "a", "status": "succeeded", "started_at": "2026-11-27T10:00:00Z", "completed_at": LATER},
    {"id": "b", "status": "pending", "started_at": "2026-11-27T10:00:00Z"},
    {"id": "b", "status": "mystery", "started_at": "2026-11-27T10:00:00Z"},
]


def of_snowplow(rows):
    found = snowplow_api.parse_rows(json.dumps(rows).encode(), {})
    assert [*found.by_text.values()] == [*found.fresh]
    assert len(found.by_text) + found.repeated == len(rows)
    return {snowplow_api.to_run(row, snowplow_api.STATUSES) for row in found.fresh}


def of_workato(rows):
    runs, invalid = workato_api.parse_jobs(json.dumps(rows).encode(), "j", workato_api.STATUSES)
    assert invalid == 0
    return set(runs)


@pytest.mark.parametrize(("parse", "rows"), [(of_snowplow, SNOWPLOW), (of_workato, WORKATO)])
def test_each_run_occurs_once_with_its_latest_completion(parse, rows):
    outcomes = {frozenset(parse(order)) for order in permutations(rows)}
    assert len(outcomes) == 1
    runs = {run.run_id: run for run in outcomes.pop()}
    assert runs.keys() == {"a", "b"}
    assert runs["a"].result is Result.SUCCESS
    assert runs["a"].duration == 9
    assert runs["b"].result is None


def test_a_row_discarded_once_is_used_when_a_later_list_has_only_that_row():
    ended, running = SNOWPLOW[2], SNOWPLOW[1]
    both = snowplow_api.parse_rows(json.dumps([ended, running]).encode(), {})
    assert [row.state for row in both.fresh] == ["FAILED"]
    alone = snowplow_api.parse_rows(json.dumps([running]).encode(), both.by_text)
    assert [row.state for row in alone.fresh] == ["RUNNING"]
    again = snowplow_api.parse_rows(json.dumps([running, ended]).encode(), both.by_text)
    assert not again.fresh
