import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter import __version__, cli
from exporter.commands.backfill.options import BackfillOptions
from exporter.config import ConfigError, ConfigProblem
from exporter.errors import StateError
from exporter.logs import LogOptions
from exporter.web.address import Address, parse_address

ROOT = Path(__file__).parents[2]
CONFIG = "sources: [{name: a, type: snowplow, organization_id: o, auth: {api_key: '${KEY}'}%s}]\n"


def test_an_address_that_cannot_be_used_is_an_error_of_simulate_and_no_traceback():
    out, err = io.StringIO(), io.StringIO()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        flags = ["simulate", "--vendor=strait", f"--listen-address={address}"]
        assert cli.main(flags, cli.Console(out, err, {})) == 1
    assert err.getvalue() == f"cannot listen on {address}: Address already in use\n"


class Calls:
    """Fake application and simulators: records calls, and returns a given result."""

    def __init__(self, error=None, probes=(), unmatched=()):
        self.requested = []
        self.error = error
        self.probes = probes
        self.lacking = unmatched

    def _note(self, *call):
        self.requested.append(call)
        if self.error:
            raise self.error
        return 0

    def run(self, config_file, listen, web_config_file, log):
        return self._note("run", config_file, listen, web_config_file, log)

    def once(self, config_file):
        return self._note("once", config_file)

    def copy(self, source, target, environ, _out):
        return self._note("copy", source, target, environ)

    def backfill(self, config_file, wanted):
        return self._note("backfill", config_file, wanted)

    def demo(self, listen, speed):
        return self._note("demo", listen, speed)

    def verify_state(self, _config):
        yield from ()

    def probe(self, config):
        self._note("probe", len(config.sources))
        yield from self.probes

    def unmatched(self, config):
        self._note("unmatched", len(config.objectives))
        yield from self.lacking

    def serve(self, vendor, host, port):
        return self._note("serve", vendor, host, port)


def call(*argv, calls=None, environ=None):
    """Exit code, output and errors of a command."""
    calls = calls or Calls()
    out, err = io.StringIO(), io.StringIO()
    console = cli.Console(out, err, environ or {"KEY": "k"}, module=lambda _name: calls)
    return cli.main(argv, console), out.getvalue(), err.getvalue()


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG % "")
    return file


@pytest.mark.parametrize(
    ("argv", "requested"),
    [
        (
            ["run", "--config.file=c.yaml"],
            ("run", Path("c.yaml"), Address("", 9797), None, LogOptions("info", "logfmt")),
        ),
        (
            [
                *("run", "--config.file", "c.yaml", "--web.listen-address", "[::1]:0", "--web.config.file=w.yaml"),
                *("--log.level=debug", "--log.format=json"),
            ],
            ("run", Path("c.yaml"), Address("::1", 0), Path("w.yaml"), LogOptions("debug", "json")),
        ),
        (["state", "copy", "--from=a.db", "--to=postgresql://b/c"], ("copy", "a.db", "postgresql://b/c", {"KEY": "k"})),
        (["once", "--config.file=c.yaml"], ("once", Path("c.yaml"))),
        (
            ["backfill", "--config.file=c.yaml", "--output=o"],
            ("backfill", Path("c.yaml"), BackfillOptions(output=Path("o"), labels={}, until=None)),
        ),
        (
            [
                *("backfill", "--config.file=c.yaml", "--output=o", "--until=2024-05-01T02:00:00+02:00"),
                *("--label", "job=a", "instance=b:1", "--label=x=y=z"),
            ],
            (
                "backfill",
                Path("c.yaml"),
                BackfillOptions(
                    output=Path("o"), labels={"job": "a", "instance": "b:1", "x": "y=z"}, until=1714521600.0
                ),
            ),
        ),
        (["demo"], ("demo", Address("", 9797), 60.0)),
        (["demo", "--web.listen-address=127.0.0.1:1", "--speed=0.5"], ("demo", Address("127.0.0.1", 1), 0.5)),
        (["simulate", "--vendor=snowplow", "--listen-address=:80"], ("serve", "snowplow", "", 80)),
    ],
)
def test_a_command_is_called_with_its_flags(argv, requested):
    calls = Calls()

    assert call(*argv, calls=calls) == (0, "", "")
    assert calls.requested == [requested]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "--config.file=c.yaml", "--web.listen-address=9797"],
        ["run", "--config.file=c.yaml", "--log.level=loud"],
        ["run", "--config=c.yaml"],
        ["check"],
        ["once"],
        ["backfill", "--config.file=c.yaml"],
        ["backfill", "--output=o"],
        ["backfill", "--config.file=c.yaml", "--output=o", "--label=job"],
        ["backfill", "--config.file=c.yaml", "--output=o", "--label=job_name=x"],
        ["backfill", "--config.file=c.yaml", "--output=o", "--until=yesterday"],
        ["demo", "--speed=0"],
        ["demo", "--speed=fast"],
        ["demo", "--speed=inf"],
        ["simulate", "--vendor=airflow"],
        ["simulate"],
    ],
)
def test_wrong_usage_is_reported_and_calls_nothing(argv):
    calls = Calls()

    code, out, err = call(*argv, calls=calls)

    assert (code, out, calls.requested) == (2, "", [])
    assert "error: " in err


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["check", "--help"], ["demo", "--help"]])
def test_help_exits_with_0(argv):
    code, out, err = call(*argv)

    assert (code, err) == (0, "")
    assert "usage: jobrun-exporter" in out


def test_the_version_is_printed():
    assert call("--version") == (0, f"jobrun-exporter {__version__}\n", "")


def test_check_accepts_a_valid_config(config_file):
    assert call("check", f"--config.file={config_file}") == (0, "config is valid: 1 source\n", "")


def test_check_prints_warnings_of_a_valid_config(config_file):
    config_file.write_text(CONFIG % ", base_url: 'http://example.com'")

    code, out, _ = call("check", f"--config.file={config_file}")

    assert code == 0
    assert out.splitlines()[1].startswith("warning: sources[0].base_url: http without TLS")


def test_check_prints_every_problem(config_file):
    config_file.write_text(CONFIG % ", timeout: 5" + "x: 1\n")

    code, out, err = call("check", f"--config.file={config_file}", environ={"NOT": "set"})

    assert (code, out) == (1, "")
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        "sources[0].auth.api_key",
        "sources[0].timeout",
        "x",
    ]


def test_check_live_probes_every_source(config_file):
    calls = Calls(probes=[("a", True, "signed in, 3 runs"), ("b", False, "the key was refused")])

    code, out, err = call("check", "--live", f"--config.file={config_file}", calls=calls)

    assert (code, err) == (1, "b: the key was refused\n")
    assert out == "config is valid: 1 source\na: signed in, 3 runs\n"
    assert call("check", "--live", f"--config.file={config_file}", calls=Calls(probes=[("a", True, "x")]))[0] == 0


def test_check_live_warns_about_objectives_that_match_no_job(config_file):
    config_file.write_text(config_file.read_text() + "objectives: [{freshness: 1d}]\n")
    calls = Calls(probes=[("a", True, "x")], unmatched=["objectives[0]: matches none of 12 jobs"])
    code, out, _ = call("check", "--live", f"--config.file={config_file}", calls=calls)
    assert code == 0
    assert out.endswith("a: x\nwarning: objectives[0]: matches none of 12 jobs\n")


def test_check_without_live_probes_no_source(config_file):
    calls = Calls()
    call("check", f"--config.file={config_file}", calls=calls)

    assert calls.requested == []


def test_check_prints_the_schema_without_a_config():
    code, out, _ = call("check", "--schema")

    assert code == 0
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (
            ConfigError([ConfigProblem("state.path", "is required"), ConfigProblem("", "bad")]),
            "state.path: is required\nbad\n",
        ),
        (StateError("the state is in use"), "the state is in use\n"),
        (KeyboardInterrupt(), "once: interrupted\n"),
    ],
)
def test_an_error_that_stops_a_command_is_printed_with_its_text(error, printed):
    assert call("once", "--config.file=c.yaml", calls=Calls(error)) == (1, "", printed)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9797", Address("", 9797)),
        (":0", Address("", 0)),
        ("localhost:65535", Address("localhost", 65535)),
        ("0.0.0.0:80", Address("0.0.0.0", 80)),  # noqa: S104  # only parsed
        ("[::1]:9797", Address("::1", 9797)),
    ],
)
def test_an_address_is_parsed_and_formatted(text, address):
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "9797", "localhost", "a:", "a:b", ":65536", ":-1", "::1:80", "::1", "[::1]", ":8 0", ":²"]
)
def test_an_invalid_address_is_refused(text):
    with pytest.raises(ValueError, match=r"is not HOST:PORT|needs brackets"):
        parse_address(text)


def python(*argv):
    return subprocess.run(  # noqa: S603  # runs this Python
        [sys.executable, *argv],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_can_be_run_as_a_module():
    done = python("-m", "exporter", "check", "--config.file=/nowhere.yaml")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "/nowhere.yaml cannot be read: No such file or directory\n"


def test_the_command_line_starts_without_server_and_scheduler():
    done = python(
        "-c", "import sys, exporter.cli; print(sorted({'uvicorn', 'apscheduler', 'starlette'} & set(sys.modules)))"
    )

    assert done.stdout == "[]\n"


BUFFERED = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
UNBUFFERED = {**BUFFERED, "PYTHONUNBUFFERED": "1"}
either = pytest.mark.parametrize("environ", [BUFFERED, UNBUFFERED], ids=["buffered", "unbuffered"])


def run(*arguments, environ, **streams):
    command = [sys.executable, "-m", "exporter", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(command, env=environ, cwd=ROOT, check=False, timeout=60, **pipes)  # noqa: S603  # ours


@pytest.fixture
def nobody():
    """Return the write end of a pipe that nobody reads."""
    batch, writing = os.pipe()
    os.close(batch)
    with os.fdopen(writing, "wb") as end:
        yield end


@either
@pytest.mark.parametrize("command", ["check", "once", "explain", "backfill"])
def test_a_closed_stderr_ends_a_command_quietly(command, environ, nobody):
    more = {"explain": ["jobrun_runs_total"], "backfill": ["--output=/nowhere.txt"]}.get(command, [])
    assert run(command, "--config.file=/nowhere.yaml", *more, environ=environ, stderr=nobody).returncode == 141


@either
def test_a_demo_with_a_closed_output_ends_quietly(environ, nobody):
    ended = run("demo", "--web.listen-address=127.0.0.1:0", environ=environ, stdout=nobody)
    assert ended.returncode == 141
    assert b"Traceback" not in ended.stderr


@either
@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_a_daemon_whose_log_cannot_be_written_stops_with_0(tmp_path, closed, environ):
    file, state = tmp_path / "config.yaml", tmp_path / "state.db"
    source = "{name: a, type: snowplow, organization_id: o, auth: {api_key: k}, base_url: 'http://127.0.0.1:9'}"
    file.write_text(f"sources: [{source}]\nstate: {{path: {state}}}\n")
    command = f"exec {sys.executable} -m exporter run --config.file={file} --web.listen-address=127.0.0.1:0 {closed}"
    daemon = subprocess.Popen(["sh", "-c", command], cwd=ROOT, env=environ)  # noqa: S603, S607  # ours
    until = time.monotonic() + 30
    while not state.exists() and time.monotonic() < until:
        time.sleep(0.1)
    daemon.terminate()
    assert daemon.wait(30) == 0


@either
def test_output_to_a_full_disk_is_reported(environ):
    with open("/dev/full", "wb") as full:  # noqa: PTH123  # a device
        ended = run("check", "--schema", environ=environ, stdout=full)
    assert (ended.returncode, ended.stderr) == (1, b"the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("arguments", [["check", "--schema"], ["--help"]])
def test_a_closed_stdout_is_not_an_error(arguments):
    batch, writing = os.pipe()
    os.close(batch)
    with os.fdopen(writing, "wb") as output:
        ended = subprocess.run(  # noqa: S603  # ours
            [sys.executable, "-m", "exporter", *arguments], stdout=output, stderr=subprocess.PIPE, cwd=ROOT, check=False
        )
    assert ended.stderr == b""
    assert ended.returncode in (0, 141)


@pytest.mark.parametrize(
    ("path", "words"),
    [("nowhere/state.db", "does not exist; make it"), (".", "is a folder; name a file in it"), (":memory:", "must be")],
)
def test_check_says_why_a_state_cannot_be_kept_and_touches_nothing(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(
        f"sources: [{{name: a, type: snowplow, organization_id: o, auth: {{api_key: k}}}}]\nstate: {{path: '{path}'}}\n"
    )
    code, _, err = call("check", f"--config.file={file}")
    assert code == 1
    assert err.startswith("state.path: ")
    assert words in err
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"]
