"""The commands as a user starts them, each a fresh process, against `simulate` or a simulated Snowplow."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import exporter
from exporter.commands.run import SWITCH_INTERVAL
from exporter.simulators.disruptions import AnyDisruption, Hang, Status
from exporter.simulators.snowplow import SnowplowSimulator
from exporter.simulators.tokens import jwt
from exporter.simulators.world import MARK
from tests.e2e.live_world import LiveWorld, baseline, source, truth, write_config
from tests.e2e.processes import Command, eventually, run_command
from tests.e2e.scrapes import counted, fetch, page, value, values

pytestmark = pytest.mark.e2e

Start = Callable[..., Command]

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command that runs until the test ends."""
    commands: list[Command] = []

    def started(*arguments: str, environ: Mapping[str, str] | None = None) -> Command:
        command = Command(tmp_path, *arguments, environ=dict(environ or {}))
        commands.append(command)
        return command

    yield started
    for command in commands:
        command.end()


@pytest.fixture
def simulated(start: Start) -> dict[str, object]:
    """Return the block under `sources:` that `simulate` prints."""
    command = start("simulate", "--vendor=snowplow", "--listen-address=127.0.0.1:0")
    text = eventually(lambda: command.output, lambda text: "auth:" in text and text.endswith("\n\n"))
    (block,) = yaml.safe_load(text)["sources"]
    return {**block, "requests_per_minute": 6000}


def started_daemon(start: Start, config_file: Path, *arguments: str) -> tuple[Command, int]:
    """Start a daemon; return it and its port, from its log."""
    command = start("run", f"--config.file={config_file}", "--web.listen-address=127.0.0.1:0", *arguments)
    return command, port_of(command)


def port_of(command: Command) -> int:
    found = eventually(lambda: re.search(r"127\.0\.0\.1:(\d+)", command.output))
    assert found, command.output
    return int(found[1])


def settings(*sources: Mapping[str, object], **more: object) -> dict[str, object]:
    return {"sources": list(sources), "state": {"path": "state.db"}, "metrics": {"zero_first": "0s"}, **more}


def polled(port: int) -> bool:
    """Wait until every source has been polled."""
    return eventually(lambda: fetch(port, "/-/ready")[0], lambda status: status == 200) == 200


# --- a daemon that polls `simulate` ---

OPTIONAL = {"bcrypt", "jinja2", "markdown_it", "psycopg", "re2", "exporter.simulators", "exporter.web.config"}
"""Modules that use memory, and are only for pages, web config files, PostgreSQL, patterns or the demo."""


def test_a_daemon_that_is_only_scraped_imports_nothing_optional(tmp_path: Path, start: Start, simulated: dict) -> None:
    command = start(
        *("run", f"--config.file={write_config(tmp_path, settings(simulated))}", "--web.listen-address=127.0.0.1:0"),
        environ={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    port = port_of(command)
    assert polled(port)
    assert fetch(port)[0] == 200
    imported = {line.rpartition("|")[2].strip() for line in command.output.splitlines()}
    assert "uvicorn" in imported
    assert not imported & OPTIONAL


def test_a_fresh_daemon_serves_what_simulate_shows_in_both_formats_and_compressed(
    tmp_path: Path, start: Start, simulated: dict
) -> None:
    _, port = started_daemon(start, write_config(tmp_path, settings(simulated)))
    assert polled(port)

    _, headers, text = fetch(port)
    assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in parse_text(text.decode())}
    assert {"jobrun_runs", "jobrun_last_run_status", "jobrun_source_up", "process_cpu_seconds"} <= names
    assert values(text.decode())['jobrun_source_up{source="snowplow"}'] == 1

    _, headers, openmetrics = fetch(port, headers={"Accept": OPENMETRICS})
    assert headers["content-type"] == OPENMETRICS
    assert names == {family.name for family in parse_openmetrics(openmetrics.decode())}

    _, headers, packed = fetch(port, headers={"Accept": OPENMETRICS, "Accept-Encoding": "gzip"})
    assert headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed).decode().splitlines()[-1] == "# EOF"
    assert len(packed) < len(openmetrics) / 2


def test_check_and_once_succeed_for_a_config_and_its_source(tmp_path: Path, simulated: dict) -> None:
    config = f"--config.file={write_config(tmp_path, settings(simulated))}"

    assert run_command(tmp_path, "check", config) == (0, "config is valid: 1 source\n")
    code, output = run_command(tmp_path, "check", config, "--live")
    assert code == 0
    assert "snowplow: signed in" in output
    code, output = run_command(tmp_path, "once", config)
    assert code == 0
    assert "marketing-costs" in output
    assert not (tmp_path / "state.db").exists(), "once touches no state"
    code, output = run_command(tmp_path, "check", "--schema")
    assert code == 0
    assert "sources" in json.loads(output)["properties"]


def test_check_live_and_once_say_which_source_refuses_the_credential(tmp_path: Path, simulated: dict) -> None:
    wrong = {**simulated, "auth": {"api_key_id": "simulated-key-id", "api_key": "not-the-key"}}
    config = f"--config.file={write_config(tmp_path, settings(wrong))}"

    for command in (("check", "--live"), ("once",)):
        code, output = run_command(tmp_path, *command, config)
        assert code == 1
        assert "snowplow: " in output
        assert "not-the-key" not in output
        assert "Traceback" not in output


def test_a_second_daemon_on_the_same_state_exits_1_and_says_why(tmp_path: Path, start: Start, simulated: dict) -> None:
    config_file = write_config(tmp_path, settings(simulated))
    _, port = started_daemon(start, config_file)
    assert polled(port)

    code, output = run_command(tmp_path, "run", f"--config.file={config_file}", "--web.listen-address=127.0.0.1:0")

    assert code == 1
    assert "another jobrun-exporter uses this state" in output
    assert "Traceback" not in output
    assert fetch(port)[0] == 200


def test_a_daemon_whose_address_is_in_use_exits_1_and_says_so(tmp_path: Path, start: Start, simulated: dict) -> None:
    config_file = write_config(tmp_path, settings(simulated))
    _, port = started_daemon(start, config_file)
    other = write_config(tmp_path, settings(simulated, state={"path": "other.db"}))

    code, output = run_command(tmp_path, "run", f"--config.file={other}", f"--web.listen-address=127.0.0.1:{port}")

    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in output
    assert "Traceback" not in output


# --- stopping ---


@pytest.mark.parametrize("disruptions", [[], [Hang(endpoint="runs")]], ids=["idle", "while a poll hangs in a request"])
def test_sigterm_ends_the_daemon_within_five_seconds(
    tmp_path: Path, start: Start, simulator: SnowplowSimulator, disruptions: list[AnyDisruption]
) -> None:
    simulator.disruptions.set(disruptions)
    command, _ = started_daemon(start, write_config(tmp_path, settings(source(simulator))))
    assert eventually(lambda: simulator.log.counts().get(("runs", 0 if disruptions else 200)))

    command.signal(signal.SIGTERM)
    begun = time.monotonic()

    assert command.wait() == 0, command.output
    assert time.monotonic() - begun < 5
    assert "msg=stopped" in command.output
    assert "Traceback" not in command.output


SAYS_ITS_TURNS = """
import os, signal, sys
from exporter.commands.run import serve
from exporter.sources import KNOWN_NAMES
from exporter.config import loads
from exporter.web.address import Address

def started(_):
    print(sys.getswitchinterval(), file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

text = "sources: [{name: a, type: strait, base_url: 'http://127.0.0.1:9', auth: {api_key: k}}]"
serve(lambda: loads(text, {}, KNOWN_NAMES), Address("127.0.0.1", 0), started=started)
"""


def test_daemon_threads_switch_often_so_that_scrapes_do_not_wait_for_polls(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(exporter.__file__).parents[1])}
    command = [sys.executable, "-c", SAYS_ITS_TURNS]
    ended = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True
    )  # ours
    assert float(ended.stderr) == pytest.approx(SWITCH_INTERVAL)


# --- reloading ---


def post_reload(port: int, _command: Command) -> None:
    """Reload as soon as the daemon allows it, once per second."""

    def allowed() -> bool:
        return fetch(port, "/-/reload", method="POST", timeout=10)[0] != TOO_SOON

    assert eventually(allowed)


def sighup(_port: int, command: Command) -> None:
    command.signal(signal.SIGHUP)


TOO_SOON = 429
RELOADED = "jobrun_exporter_config_last_reload_successful"


@pytest.mark.parametrize("reload", [post_reload, sighup])
def test_a_reload_applies_a_good_config_and_refuses_a_bad_one(
    tmp_path: Path, start: Start, simulator: SnowplowSimulator, reload: Callable[[int, Command], None]
) -> None:
    def up(name: str) -> float | None:
        return value(port, f'jobrun_source_up{{source="{name}"}}')

    command, port = started_daemon(start, write_config(tmp_path, settings(source(simulator))))
    assert eventually(lambda: up("live")) == 1

    write_config(tmp_path, settings(source(simulator), source(simulator, "second"), surprise=1))
    reload(port, command)
    assert eventually(lambda: value(port, RELOADED), lambda seen: seen == 0) == 0
    assert "surprise" in command.output
    assert (up("live"), up("second")) == (1, None)

    write_config(tmp_path, settings(source(simulator), source(simulator, "second")))
    reload(port, command)
    assert eventually(lambda: up("second")) == 1
    assert (up("live"), value(port, RELOADED)) == (1, 1)


def test_reloads_send_no_requests_for_an_unchanged_source(
    tmp_path: Path, start: Start, simulator: SnowplowSimulator
) -> None:
    def requested() -> int:
        return sum(simulator.log.counts().values())

    rarely = {**source(simulator), "poll_interval": "1h", "steps": "off"}
    command, port = started_daemon(start, write_config(tmp_path, settings(rarely)))
    eventually(lambda: "poll finished" in command.output)
    before = requested()
    for _ in range(4):
        post_reload(port, command)
    assert requested() == before
    assert "Traceback" not in command.output

    write_config(tmp_path, settings({**rarely, "poll_interval": "2h"}))
    post_reload(port, command)
    assert eventually(requested, lambda seen: seen > before) > before


def test_post_reload_answers_with_the_errors(tmp_path: Path, start: Start, simulator: SnowplowSimulator) -> None:
    _, port = started_daemon(start, write_config(tmp_path, settings(source(simulator))))
    write_config(tmp_path, {"sources": []})

    status, _, body = fetch(port, "/-/reload", method="POST", timeout=10)

    assert status == 500
    assert b"sources" in body


def test_a_source_removed_and_added_again_loses_and_doubles_no_run(
    tmp_path: Path, start: Start, simulator: SnowplowSimulator, world: LiveWorld
) -> None:
    with SnowplowSimulator(world) as second:
        both = settings(source(simulator), source(second, "other"))
        command, port = started_daemon(start, write_config(tmp_path, settings(source(simulator))))
        assert eventually(lambda: sum(counted(page(port), "live").values()) > 5)

        for _ in range(2):
            write_config(tmp_path, settings(source(second, "other")))
            post_reload(port, command)
            assert eventually(lambda: counted(page(port), "live"), lambda counts: not counts) == {}
            write_config(tmp_path, both)
            post_reload(port, command)
            assert eventually(lambda: sum(counted(page(port), "live").values()) > 5)
        world.rest()
        write_config(tmp_path, settings(source(simulator)))
        post_reload(port, command)

    expected = truth(simulator, baseline(tmp_path / "state.db", "live"))
    assert eventually(lambda: counted(page(port), "live"), lambda seen: seen == expected) == expected
    assert not counted(page(port), "other")


# --- logs ---


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_logs_contain_neither_secrets_nor_customer_data(
    tmp_path: Path, start: Start, simulator: SnowplowSimulator, form: str
) -> None:
    simulator.disruptions.add(Status(code=401, endpoint="runs", count=2), Status(code=500, endpoint="steps", count=2))
    key = tmp_path / "key"
    key.write_text(simulator.credentials.api_key)
    auth = {"api_key_id": simulator.credentials.api_key_id, "api_key_file": str(key)}
    config_file = write_config(tmp_path, settings(source(simulator, auth=auth)))
    command, port = started_daemon(start, config_file, "--log.level=debug", f"--log.format={form}")
    up = 'jobrun_source_up{source="live"}'
    assert eventually(lambda: value(port, up)) == 1
    assert eventually(lambda: sum(counted(page(port), "live").values()) > 5)
    key.write_text("a-wrong-key")
    simulator.expire_tokens()
    assert eventually(lambda: value(port, up), lambda seen: seen == 0) == 0

    lines = command.output.splitlines()
    assert len(lines) > 3
    for line in lines:
        if form == "json":
            assert {"ts", "level", "msg"} <= json.loads(line).keys()
        else:
            assert re.match(r'ts=\S+ level=[a-z]+ msg=("|\S)', line), line
    state = b"".join(part.read_bytes() for part in tmp_path.glob("state.db*"))
    beginning_of_every_token = jwt({}).split(".")[0]
    for secret in (simulator.credentials.api_key, "a-wrong-key", beginning_of_every_token, MARK):
        assert secret not in command.output
        assert secret not in page(port)
        assert secret.encode() not in state


# --- the demo ---


def test_the_demo_shows_each_problem_within_about_a_minute(start: Start) -> None:
    def total(name: str, **labels: str) -> float:
        return sum(
            number
            for series, number in values(page(port)).items()
            if series.startswith(name + "{") and all(f'{label}="{word}"' in series for label, word in labels.items())
        )

    def lowest(name: str, job: str) -> float | None:
        found = (
            number for series, number in values(page(port)).items() if series.startswith(name + "{") and job in series
        )
        return min(found, default=None)

    def stuck() -> bool:
        return lowest("jobrun_oldest_active_run_start_timestamp_seconds", "warehouse-cleanup") is not None

    def overdue() -> bool:
        expected = lowest("jobrun_job_next_run_expected_timestamp_seconds", "partner-feed")
        return expected is not None and expected < time.time() - 600

    def switched_off() -> bool:
        return lowest("jobrun_job_enabled", "invoice-sync") == 0

    command = start("demo", "--web.listen-address=127.0.0.1:0")
    found = eventually(lambda: re.search(r"^metrics: http://127\.0\.0\.1:(\d+)/metrics$", command.output, re.MULTILINE))
    assert found, command.output
    port = int(found[1])
    until = time.monotonic() + 80

    def in_time(look: Callable[[], object]) -> object:
        return eventually(look, seconds=until - time.monotonic())

    assert in_time(lambda: total("jobrun_active_runs"))
    assert in_time(lambda: total("jobrun_runs_total", result="success")), command.output
    assert in_time(lambda: total("jobrun_runs_total", result="failure"))
    assert in_time(lambda: total("jobrun_last_run_status", status="failure"))
    assert in_time(stuck)
    assert in_time(overdue)
    assert in_time(switched_off)
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
