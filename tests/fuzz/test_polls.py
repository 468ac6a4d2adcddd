"""Whole polls with corrupted responses: vendor, client, poller, ledger, state, page."""

import itertools
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec
import pytest

from exporter.simulators import SIMULATORS
from exporter.simulators.disruptions import Huge
from exporter.sources.payload import identity, scalar
from exporter.times import parse_timestamp
from tests.contract.harness import MINUTE, Bench
from tests.e2e.processes import skip_or_fail
from tests.fuzz.fuzz_harness import FuzzedExporter, choose_cases, ids_in_other_rows, is_json, longest_bodies
from tests.fuzz.fuzz_size import FUZZ_CASES, TESTED_VALUES
from tests.fuzz.hostile_values import CANARY, paths_in, replace_value

SHORT_CASES = 12
"""Polls per vendor in the usual tests."""

PAGE_KEYS = frozenset(
    {"runId", "id", "handle", "jobName", "name", "slug", "environment", "state", "status", "dependencies"}
    | {"project_id", "external_id", "job_id", "workflow_id", "step_ref", "cron", "timezone", "cron_timezone"}
    | {"error_class", "schedule", "jobType", "error_type", "adapter", "adapter_name", "adapter_operation"}
)
"""Keys whose texts may appear on the page."""


@pytest.fixture
def folders():
    """Return new folders, in memory where possible: a poll is a dozen transactions."""
    memory = Path("/dev/shm")  # noqa: S108  # only if it exists
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as root:
        yield (Path(tempfile.mkdtemp(dir=root)) for _ in itertools.count())


@pytest.fixture
def fuzzed(folders):
    """Return a function that makes exporters of a vendor, one at a time."""
    made = []

    def make(vendor, **more):
        end(made)
        made.append(FuzzedExporter(vendor, next(folders), **more))
        return made[-1]

    yield make
    end(made)


def end(made):
    while made:
        made.pop().close()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("vendor", sorted(SIMULATORS))
def test_one_corrupted_response_affects_nothing_else(vendor, fuzzed):
    seen, healthy, final = undisturbed_poll(vendor, fuzzed)
    for number, case in enumerate(choose_cases(seen, TESTED_VALUES, FUZZ_CASES or SHORT_CASES, seed=FUZZ_CASES)):
        exporter = fuzzed(vendor, first=number % 3 == 0)
        exporter.poll(case.corrupt)
        exporter.check()
        counted = exporter.counted()
        only_row = exporter.bench.poller.status.error.startswith(
            "no row of the response"
        )  # all were corrupted: an error
        exporter.recover()
        exporter.check()
        assert exporter.total() <= len(exporter.counted()) + 1, case  # one may be skipped
        if number % 3 and case.path and is_json(case.raw) and not only_row:
            other_runs = ids_in_other_rows(longest_bodies(seen)[case.endpoint], case.path, healthy)
            # An ID also marks where the next page begins.
            assert other_runs <= counted or case.endpoint == "steps" or case.path[-1] == "id", case
        # A row with another ID is another run. With another time, a run may have completed before the baseline.
        raw = msgspec.Raw(case.raw)
        renamed = case.path[-1:] == ("id",) and identity(raw)
        if number % 3 and not renamed and parse_timestamp(scalar(raw)) is None:
            assert final <= exporter.counted(), case


def undisturbed_poll(vendor, fuzzed):
    """Return the responses of a poll without corruption, and the runs that are counted after it and at the end."""
    exporter = fuzzed(vendor)
    assert exporter.poll(lambda _, body: body) == "success"
    seen, healthy = list(exporter.wire.seen), exporter.counted()
    exporter.recover()
    exporter.check()
    assert exporter.total() == len(exporter.counted()) == 6
    return seen, healthy, exporter.counted()


@pytest.mark.parametrize("vendor", sorted(SIMULATORS))
def test_text_that_is_not_a_label_appears_nowhere(vendor, fuzzed):
    canary = json.dumps(CANARY).encode()

    def corrupt(endpoint, body):
        if "token" in endpoint or not body:
            return body
        document = msgspec.json.decode(body)
        for path in [*paths_in(document)]:
            if PAGE_KEYS.isdisjoint(path):
                document = replaced(document, path, canary)
        return msgspec.json.encode(document)

    exporter = fuzzed(vendor)
    exporter.poll(corrupt)
    exporter.check()
    page = exporter.bench.exposition.page
    emitted = (bytes(page.text), bytes(page.openmetrics), exporter.bench.state.read_bytes())
    assert all(CANARY.encode() not in each for each in emitted)


def replaced(document, path, raw):
    """Return the document with the text at a path replaced. Containers, times and durations stay."""
    value = document
    for key in path:
        value = value[key]
    if not isinstance(value, str) or parse_timestamp(value) is not None or value.startswith("P"):
        return document
    return msgspec.json.decode(replace_value(document, path, raw))


HEADERS = (
    *((b"Content-Encoding", value) for value in (b"gzip", b"br", b"gzip, gzip", b"\xff", b"", b"x" * 10_000)),
    *((b"Content-Type", value) for value in (b"text/html", b"application/json; charset=utf-99", b"\xff\xfe")),
    *((b"Date", value) for value in (b"", b"soon", b"Thu, 01 Jan 0000 00:00:00 GMT", b"\xff", b"9" * 5000)),
    *((b"Date", b"Fri, 31 Dec 9999 23:59:59 -9999"), (b"Date", b"Mon, 32 Foo 99999999999999999999 99:99:99 GMT")),
    *((b"Retry-After", value) for value in (b"-1", b"1e400", b"9" * 5000, b"NaN", b"\xff")),
    *((b"X-RateLimit-Remaining", value) for value in (b"-1", b"NaN", b"1e400", b"9" * 5000, b"0")),
    *((b"X-RateLimit-Reset", value) for value in (b"-1", b"9" * 5000, b"1e18", b"\xff")),
    *((b"RateLimit", value) for value in (b'"d";r=', b'"d";r=99999999999999999999;t=-1', b"=;=", b"\xff")),
)


@pytest.mark.parametrize("vendor", sorted(SIMULATORS))
def test_no_header_of_a_response_breaks_a_poll(vendor, fuzzed):
    exporter = fuzzed(vendor)
    for header in HEADERS:
        exporter.wire.headers = [header]
        exporter.bench.clock.advance(MINUTE)
        exporter.bench.poll()
        exporter.wire.headers = []
    exporter.check()
    exporter.recover()
    assert len(exporter.counted()) == 6


@pytest.mark.parametrize("vendor", sorted(SIMULATORS))
def test_a_response_beyond_the_limit_is_cut_off_and_affects_one_poll(vendor, tmp_path):
    bench = Bench(vendor, tmp_path, timeout="10s")
    bench.poll()
    bench.busy(20 * MINUTE)
    bench.disruption(Huge)
    bench.clock.advance(30 * MINUTE)
    outcome = bench.poll()
    error = bench.poller.status.error
    bench.simulator.disruptions.clear()
    bench.settle()
    assert bench.counted() == bench.truth()
    bench.close()
    assert not bench.ability.errors or (outcome in {"error", "partial"} and "larger than" in error)


@pytest.mark.parametrize("vendor", sorted(SIMULATORS))
def test_promtool_accepts_the_page_after_a_corrupted_poll(vendor, fuzzed):
    promtool = shutil.which("promtool")
    if promtool is None:
        skip_or_fail("promtool is not installed")
    seen, *_ = undisturbed_poll(vendor, fuzzed)
    for case in choose_cases(seen, TESTED_VALUES, 3, seed=1):
        exporter = fuzzed(vendor)
        exporter.poll(case.corrupt)
        exporter.bench.publisher.publish()
        page = bytes(exporter.bench.exposition.page.text)
        checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)  # noqa: S603  # found just now
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, b""), case
