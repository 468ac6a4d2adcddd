"""Lists of runs from servers that ignore a filter, or filter after they split rows into pages."""

import json
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from exporter.errors import SchemaError
from exporter.sources.rest import status_table
from exporter.sources.strait.api import parse_run
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


def test_a_server_that_ignores_the_status_gets_one_request_per_list():
    server = Server("completed")
    assert [list(page.rows) for page in lists_of(server).pages("executing")] == [[]]
    assert server.requests == 1


def test_a_list_of_many_pages_without_runs_is_refused():
    server = Server("")
    with pytest.raises(SchemaError, match="does not end"):
        list(lists_of(server).pages("executing"))
    assert server.requests == MAX_EMPTY_PAGES + 1
