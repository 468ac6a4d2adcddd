"""Every parser of an API's responses, on real payloads that are corrupted in every way."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec
import pytest

from exporter.errors import SourceError
from exporter.sources.northflank import api as northflank_api
from exporter.sources.payload import decode_rows
from exporter.sources.snowplow import api as snowplow_api
from exporter.sources.snowplow import details as snowplow_details
from exporter.sources.strait import api as strait_api
from exporter.sources.strait import kinds as strait_kinds
from exporter.sources.workato import api as workato_api
from tests.fuzz.fuzz_size import TESTED_VALUES
from tests.fuzz.hostile_values import changed_bodies, paths_in, remove_value, repeat_key, replace_value

SOURCES = Path(__file__).parents[1] / "sources"
SNOWPLOW_RUNS = b"""[{"runId": "1", "jobName": "daily", "environment": "prod", "state": "SUCCEEDED",
 "startTime": "2023-11-14T22:13:20Z", "duration": "PT1M", "endTime": "2023-11-14T22:14:20Z"},
 {"runId": "2", "jobName": "daily", "environment": "prod", "state": "RUNNING", "startTime": "2023-11-14T22:13:20Z"}]"""
SNOWPLOW_RUN = b"""{"runId": "1", "jobName": "daily", "environment": "prod", "state": "FAILED",
 "startTime": "2023-11-14T22:13:20Z", "duration": "PT1M", "stdout": "o", "stderr": "e",
 "steps": [{"name": "load", "state": "FAILED", "startTime": "2023-11-14T22:13:20Z", "duration": "PT1M",
 "dependencies": ["a", {"name": "b"}]}, {"name": "end", "state": "SKIPPED", "dependsOn": ["load"]}]}"""
STRAIT_STEPS = b"""{"data": [{"step_ref": "a", "status": "completed", "started_at": "2023-11-14T22:13:20Z",
 "finished_at": "2023-11-14T22:14:20Z", "error": "e"}], "next_cursor": "2023-11-14T22:13:20Z", "has_more": true}"""
WORKATO_PAGE = b"""{"result": [{"id": 1, "external_id": "acme", "name": "n", "running": true, "stop_cause": "x",
 "job_succeeded_count": 1, "job_failed_count": 2, "last_run_at": "2023-11-14T22:13:20Z"}]}"""
NORTHFLANK_JOB = b"""{"data": {"id": "j", "settings": {"cron": {"schedule": "* * * * *", "timezone": "UTC"}}}}"""

Parser = Callable[[bytes], object]


def of_snowplow(body: bytes) -> object:
    rows = snowplow_api.parse_rows(body, {}).by_text.values()
    return [(snowplow_api.to_run(row, snowplow_api.STATUSES), snowplow_api.to_job(row)) for row in rows]


def snowplow_run(body: bytes) -> object:
    row, steps = snowplow_details.parse_run(body, snowplow_api.STATUSES)
    return snowplow_api.to_run(row, snowplow_api.STATUSES), steps


def of_workato(body: bytes) -> object:
    return workato_api.parse_jobs(body, "1/2", workato_api.STATUSES), workato_api.parse_total(body)


def recipes(body: bytes) -> object:
    customer = workato_api.Customer("1", "acme")
    return [workato_api.to_job(recipe, customer, "") for recipe in workato_api.parse_recipes(body)[0]]


def northflank_runs(body: bytes) -> object:
    page = northflank_api.parse_page(body, "runs")
    rows = [northflank_api.to_run(raw, "p/j", northflank_api.STATUSES) for raw in page.rows]
    return rows, [northflank_api.parse_job(raw, "p") for raw in page.rows], page.cursor, page.more


def strait_runs(body: bytes) -> object:
    page = strait_api.parse_page(body, partial(strait_api.parse_run, statuses=strait_kinds.RUN_STATUSES), 100)
    jobs = [strait_api.unlisted_job("j", row.project, scope="", workflow=False) for row in page.rows]
    return page.rows, jobs, page.cursor


def strait_jobs(body: bytes) -> object:
    return strait_api.parse_page(body, partial(strait_api.parse_job, scope="", workflow=False), 100).rows


def saved(name: str) -> bytes:
    return (SOURCES / name).read_bytes()


CASES: Mapping[str, tuple[bytes, Parser]] = {
    "snowplow runs": (SNOWPLOW_RUNS, of_snowplow),
    "snowplow run": (SNOWPLOW_RUN, snowplow_run),
    "snowplow steps": (SNOWPLOW_RUN, lambda body: snowplow_details.parse_steps(body, snowplow_api.STATUSES)),
    "snowplow log": (SNOWPLOW_RUN, snowplow_details.parse_log),
    "workato jobs": (saved("workato/payloads/jobs.json"), of_workato),
    "workato job": (
        saved("workato/payloads/job.json"),
        lambda body: workato_api.parse_job(body, "1/2", "j-AJMfQh8c-hsCXcs", workato_api.STATUSES),
    ),
    "workato error": (saved("workato/payloads/job.json"), lambda body: workato_api.parse_error(body, "1")),
    "workato customers": (WORKATO_PAGE, workato_api.parse_customers),
    "workato recipes": (WORKATO_PAGE, recipes),
    "northflank runs": (
        saved("northflank/payloads/job_runs.json"),
        northflank_runs,
    ),
    "northflank run": (
        NORTHFLANK_JOB,
        lambda body: northflank_api.parse_run(body, "p/j", northflank_api.STATUSES),
    ),
    "northflank schedule": (NORTHFLANK_JOB, northflank_api.parse_schedule),
    "strait runs": (b"[" + saved("strait/payloads/run.json") + b"]", strait_runs),
    "strait jobs": (saved("strait/payloads/jobs.json"), strait_jobs),
    "strait run": (
        saved("strait/payloads/run.json"),
        lambda body: strait_api.parse_single_run(body, "string", strait_kinds.RUN_STATUSES),
    ),
    "strait steps": (STRAIT_STEPS, lambda body: strait_api.parse_steps(body, strait_kinds.STEP_STATUSES)),
    "strait error": (STRAIT_STEPS, lambda body: strait_api.parse_error(body, "a")),
    "rows": (WORKATO_PAGE, lambda body: decode_rows(body, ("result",))),
}


def corrupted(body: bytes) -> Iterator[bytes]:
    """Yield the body with each change of each value, and each change of the whole body."""
    document = msgspec.json.decode(body)
    yield from changed_bodies(body)
    for path in paths_in(document):
        yield remove_value(document, path)
        for raw in TESTED_VALUES:
            yield replace_value(document, path, raw)
            yield repeat_key(document, path, raw)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("case", CASES)
def test_a_corrupted_response_is_readable_or_an_error_of_its_source(case):
    body, parse = CASES[case]
    for answer in corrupted(body):
        try:
            found = parse(answer)
        except SourceError:
            continue
        assert sound(found), answer[:2000]


def sound(found: object) -> bool:
    """Return whether numbers are finite and fit the state, and texts can be encoded."""
    if isinstance(found, msgspec.Struct):
        # A field that cannot be read is only logged.
        return all(sound(getattr(found, name)) for name in found.__struct_fields__ if name != "problems")
    if isinstance(found, dict):
        return all(sound(part) for pair in found.items() for part in pair)
    if isinstance(found, list | tuple):
        return all(map(sound, found))
    if isinstance(found, str):
        return found.encode() is not None
    if isinstance(found, float):
        return math.isfinite(found)
    return not isinstance(found, int) or abs(found) < 2**63
