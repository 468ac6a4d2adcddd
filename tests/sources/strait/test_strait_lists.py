"""Lists of runs from servers that ignore a filter, or filter after they split rows into pages."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.errors import SchemaError
from exporter.sources.failing import FailingParts
from exporter.sources.rest import status_table
from exporter.sources.strait.api import cursor_at, parse_run
from exporter.sources.strait.catalog import JobCatalog
from exporter.sources.strait.kinds import KINDS
from exporter.sources.strait.lists import MAX_EMPTY_PAGES, PageReader, StatusLists


class Server:
    """Shows a new page for each request. `status`: of its runs; "" for pages without runs."""

    def __init__(self, status):
        self.status, self.requests = status, 0

    def get(self, _path, *, endpoint, params):
        assert (endpoint, params["status"]) == (KINDS[0].runs, "executing")
        self.requests += 1
        created = (datetime(2023, 11, 14, tzinfo=UTC) - timedelta(seconds=self.requests)).isoformat()
        rows = [{"id": f"r{self.requests}", "status": self.status, "created_at": created}] if self.status else []
        return json.dumps({"data": rows, "has_more": True, "next_cursor": created}).encode()


def lists_of(server):
    kind = KINDS[0]
    runs = PageReader(server, kind.runs, partial(parse_run, statuses=status_table(kind.statuses, {})))
    return StatusLists(kind, {}, runs)


class JobServer:
    """Shows the first 100 jobs, and no cursor leads to the others: all have one creation time."""

    def __init__(self, ids):
        self.ids = ids

    def get(self, _path, *, endpoint, params):
        assert endpoint == KINDS[0].jobs
        created = cursor_at(datetime(2023, 11, 14, tzinfo=UTC))
        shown = self.ids if params.get("cursor", "9") > created else []
        rows = [{"id": each, "slug": f"job-{each}", "created_at": created} for each in shown[: params["limit"]]]
        return json.dumps({"data": rows, "has_more": len(shown) > params["limit"], "next_cursor": created}).encode()


@pytest.mark.parametrize(("number", "complete"), [(100, True), (101, False)])
def test_jobs_that_the_list_cannot_show_are_not_reported_as_deleted(number, complete):
    ids = [str(each) for each in range(number)]
    server: Any = JobServer(ids)
    view: Any = SimpleNamespace(now=0.0)
    catalog = JobCatalog(KINDS[0], server, FailingParts())
    (first,) = catalog.read(view)
    server.ids = ids[::-1]
    (second,) = catalog.read(view)
    assert (first.catalog, second.catalog) == (complete, complete)
    assert {job.name for job in second.jobs} == {f"job-{each}" for each in ids}


def test_a_server_that_ignores_the_status_gets_one_request_per_list():
    server = Server("completed")
    assert [list(page.rows) for page in lists_of(server).pages("executing")] == [[]]
    assert server.requests == 1


def test_a_list_of_many_pages_without_runs_is_refused():
    server = Server("")
    with pytest.raises(SchemaError, match="does not end"):
        list(lists_of(server).pages("executing"))
    assert server.requests == MAX_EMPTY_PAGES + 1
