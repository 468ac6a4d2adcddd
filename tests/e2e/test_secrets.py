"""Searches everything that the process emits for secrets and customer data."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter.config import load, secrets
from exporter.simulators.world import MARK
from exporter.sources import KNOWN_NAMES
from tests.e2e.live_world import LiveWorld, source, write_config
from tests.e2e.processes import Command, eventually, free_port, run_command
from tests.e2e.scrapes import fetch, page
from tests.e2e.vendor_traits import simulators

pytestmark = pytest.mark.e2e

PAGES = ("/", "/runs", "/runs?result=failure", "/runbooks", "/metrics", "/-/ready", "/no/such/page")
API = ("sources", "jobs", "problems", "runs", "openapi.json")
FORMATS: tuple[Mapping[str, str], ...] = ({}, {"Accept": "application/openmetrics-text;version=1.0.0"})


@pytest.fixture
def config_file(tmp_path: Path, world: LiveWorld) -> Iterator[Path]:
    """Return a config of all vendors, and of one more source with a wrong key."""
    with ExitStack() as running:
        vendors = [running.enter_context(each) for each in simulators(world)]
        blocks = [source(each, each.vendor) for each in vendors]
        blocks.append(source(vendors[0], "refused", auth={"api_key_id": "an-id", "api_key": "a-key-that-is-refused"}))
        yield write_config(
            tmp_path,
            {
                "sources": blocks,
                "state": {"path": str(tmp_path / "state.db")},
                "metrics": {"zero_first": "0s"},
                "web": {"external_url": "https://jobruns.example.com"},
            },
        )


def everything_served(port: int) -> Iterator[tuple[str, bytes]]:
    """Return responses by path, including each failed run's page and its JSON."""
    found = json.loads(fetch(port, "/api/v1/runs?result=failure&limit=50")[2])["runs"]
    runs = [f"/runs/{run['source']}/{run['run_id']}" for run in found[:12]]
    assert runs
    paths = (*PAGES, *(f"/api/v1/{name}" for name in API), *runs, *(f"/api/v1{path}" for path in runs))
    for path in (*paths, *(f"{path}/log?step=load" for path in runs)):
        for headers in FORMATS:
            status, answered, body = fetch(port, path, headers, timeout=30)
            yield f"{path} ({status})", body + repr(dict(answered)).encode()


def test_no_output_contains_secrets_or_customer_data(tmp_path: Path, config_file: Path) -> None:
    port = free_port()
    log = "--log.level=debug"
    command = Command(tmp_path, "run", f"--config.file={config_file}", f"--web.listen-address=127.0.0.1:{port}", log)
    try:
        assert eventually(lambda: page(port).count('result="failure"} 1'), seconds=60), command.output
        emitted = dict(everything_served(port))
    finally:
        command.end()
    emitted["log"] = command.output.encode()
    number = 'jobrun_runs_total{result="failure"}'
    for words in (("check", "--live"), ("once",), ("explain", number), ("backfill", "--output=past.om")):
        name, *more = words
        emitted[name] = run_command(tmp_path, name, f"--config.file={config_file}", *more)[1].encode()
    files = (part for part in tmp_path.iterdir() if part.is_file() and part != config_file)
    emitted |= {part.name: part.read_bytes() for part in files}  # the state, and what commands wrote

    held = {secret.reveal() for secret in secrets(load(config_file, os.environ, KNOWN_NAMES))}
    assert len(held) >= 5
    found = [(place, text) for text in (*held, MARK) for place, body in emitted.items() if text.encode() in body]
    assert not found
