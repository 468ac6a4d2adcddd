"""One poll of every source, as the commands use it and print it."""

import json

import httpx
import pytest

from exporter.assembly import Clocks
from exporter.commands.check import unmatched_objectives
from exporter.commands.once import table
from exporter.config import loads
from exporter.sources import KNOWN_NAMES

NOW = 1_790_000_000.0


def recipes(request: httpx.Request) -> httpx.Response:
    if request.url.path.endswith("/jobs"):
        return httpx.Response(200, json={"job_count": 0, "items": []})
    rows = [{"id": number, "name": "Sync orders", "running": True} for number in (11, 22)]
    return httpx.Response(
        200, content=json.dumps({"items": rows if request.url.params.get("page", "1") == "1" else []})
    )


def unmatched(objectives, answer=recipes):
    source = "{name: w, type: workato, mode: developer, base_url: 'https://x.example', auth: {api_token: t}}"
    config = loads(f"sources: [{source}]\nobjectives: {objectives}\n", {}, KNOWN_NAMES)
    clocks = Clocks(
        clock=lambda: NOW, monotonic=lambda: 0.0, transport=httpx.MockTransport(answer), sleep=lambda _: None
    )
    return list(unmatched_objectives(config, clocks))


def test_objectives_that_match_no_job_are_named_with_the_number_of_jobs():
    objectives = "[{match: {job_name: Sync orders}}, {match: {job_name: sync orders}}]"
    assert unmatched(objectives) == ["objectives[1]: matches none of 2 jobs"]


def test_objectives_are_not_reported_if_a_source_could_not_be_read():
    assert unmatched("[{match: {job_name: x}}]", lambda _: httpx.Response(401)) == []


def test_without_objectives_no_request_is_sent():
    def refuse(_request):
        raise AssertionError("nothing to ask for")

    assert unmatched("[]", refuse) == []


# --- the table ---


def line(name, project="production"):
    return ("strait", project, name, "12", "1", "cancellation", "3", "2023-11-14 22:13:20Z", "1m1s")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("project", ["", "production", "p" * 130])
def test_the_table_fits_the_terminal_and_always_shows_results(width, project):
    rows = table([line("x" * 128, project), line("ää" * 64, project), line("short")], width)
    assert max(map(len, rows)) <= max(width, 73)
    assert all("cancellation  3" in row for row in rows[1:])
    assert "…" in rows[1]
    assert "short" in rows[3]


def test_without_a_terminal_nothing_is_cut():
    assert "x" * 128 in table([line("x" * 128)], None)[1]
