"""A Workato source with many customers, without HTTP and state, to measure the cost of a poll in the source."""

from itertools import islice
from types import SimpleNamespace

import msgspec

from exporter.sources.workato.api import USERS
from exporter.sources.workato.customers import PER_PAGE
from exporter.sources.workato.marks import ReadMark, encode_checkpoint, marks_key
from exporter.sources.workato.settings import WorkatoSettings
from exporter.sources.workato.source import WorkatoSource

NOW = 1_780_000_000.0
RECIPES = 3
SETTLED = {"job_succeeded_count": 5, "job_failed_count": 1, "last_run_at": "2026-05-28T10:00:00Z"}


class Api:
    """A fake API without changes: returns lists of customers and of their recipes from memory."""

    def __init__(self, customers):
        self.customers = customers
        self.requests = 0

    def get(self, address, *, endpoint, params=None, patience=None):  # noqa: ARG002  # as the client has it
        self.requests += 1
        if endpoint == USERS:
            first = (params["page"] - 1) * PER_PAGE
            rows = [{"id": number} for number in islice(range(self.customers), first, first + PER_PAGE)]
        else:
            rows = [{"id": number, "name": f"recipe {number}", "running": True, **SETTLED} for number in range(RECIPES)]
        return msgspec.json.encode({"result": rows})


class View(SimpleNamespace):
    """A view of a state with all customers."""

    def watermark(self, scope=""):  # noqa: ARG002  # the type that a view uses
        return NOW - 120

    def baseline(self, scope=""):  # noqa: ARG002  # the type that a view uses
        return NOW - 86400

    def open_runs(self, scope=None):  # noqa: ARG002  # the type that a view uses
        return self.open

    def includes(self, name):  # noqa: ARG002  # the type that a view uses
        return True

    def out_of_time(self):
        return False


def source_of(customers):
    """Return a source that has read everything once, a view, and the number of batches per poll."""
    api = Api(customers)
    settings = WorkatoSettings(
        name="w", type="workato", mode="embedded", base_url="https://example.com", auth={"api_token": "token"}
    )
    marks = {str(number): ReadMark(succeeded=5, failed=1, last_run=SETTLED["last_run_at"]) for number in range(RECIPES)}
    checkpoints = {marks_key(str(number)): encode_checkpoint(marks) for number in range(customers)}
    view = View(now=NOW, checkpoints=checkpoints, scopes=frozenset(map(str, range(customers))), open=())
    source = WorkatoSource(settings, api)
    return source, view, api


def poll_of(customers):
    """Return a function that polls once without news, with one request per customer."""
    source, view, api = source_of(customers)
    list(source.fetch(view))

    def make():
        api.requests = 0
        return poll

    def poll():
        batches = list(source.fetch(view))
        assert len(batches) == api.requests == customers

    return make
