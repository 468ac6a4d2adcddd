"""The command line: a table of commands, each with its flags and its function."""

import argparse
import contextlib
import errno
import importlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO, get_args

from exporter import __version__, logs
from exporter.commands import assets
from exporter.commands.backfill.options import BackfillOptions, parse_label
from exporter.commands.config_warnings import config_warnings
from exporter.config import Config, ConfigError, ConfigProblem, load, schema
from exporter.errors import JobrunError
from exporter.sources import KNOWN_NAMES, SOURCES
from exporter.state.location import problem_of
from exporter.times import parse_timestamp
from exporter.web.address import parse_address

UNWRITABLE = (errno.EPIPE, errno.ENOSPC)
"""Errors of an output whose reader has gone or whose disk is full."""


class Console(NamedTuple):
    """Outputs, environment and imports of the process, for commands. `module`: imports a module by name."""

    out: TextIO
    err: TextIO
    environ: Mapping[str, str]
    # Each command is imported when it runs, so that `--help` and `check` start fast, and a daemon loads no simulators.
    module: Callable[[str], ModuleType] = importlib.import_module

    def load(self, config_file: Path) -> Config:
        """Return a config. Raises ConfigError."""
        return load(config_file, self.environ, KNOWN_NAMES)

    def say(self, text: object, *, is_error: bool = False) -> None:
        """Print a line, to standard error if it is an error."""
        print(text, file=self.err if is_error else self.out)


class Command(NamedTuple):
    """A command. `handle` returns the exit code. `flags`: arguments of `add_argument`, by flag."""

    help: str
    handle: Callable[[argparse.Namespace, Console], int]
    flags: Mapping[str, Mapping[str, Any]]


def _run(options: argparse.Namespace, console: Console) -> int:
    log = logs.LogOptions(options.log_level, options.log_format)
    run = console.module("exporter.commands.run").run
    return int(run(options.config_file, options.web_listen_address, options.web_config_file, log))


def _check(options: argparse.Namespace, console: Console) -> int:
    if options.schema:
        console.say(json.dumps(schema(KNOWN_NAMES), indent=2))
        return 0
    config = console.load(options.config_file)
    url = config.state.database()
    if reason := problem_of(Path(config.state.path), url):
        raise ConfigError([ConfigProblem("state.path" if url is None else "state.url", reason)])
    count = len(config.sources)
    console.say(f"config is valid: {count} source{'s' if count > 1 else ''}")
    for warning in config_warnings(config, time.time()):
        console.say(f"warning: {warning}")
    return _probe(config, console) if options.live else 0


def _probe(config: Config, console: Console) -> int:
    check, failed = console.module("exporter.commands.check"), False
    for is_warning, sentence in check.verify_state(config):
        console.say(f"{'warning: ' if is_warning else ''}state.url {sentence}", is_error=not is_warning)
        failed = failed or not is_warning
    for name, succeeded, sentence in check.probe(config):
        console.say(f"{name}: {sentence}", is_error=not succeeded)
        failed = failed or not succeeded
    for warning in check.unmatched(config) if config.objectives and not failed else ():
        console.say(f"warning: {warning}")
    return 1 if failed else 0


def _explain(options: argparse.Namespace, console: Console) -> int:
    explain = console.module("exporter.commands.explain.explain").explain
    return int(explain(console.load(options.config_file), options.selector, console.out, console.err))


def _backfill(options: argparse.Namespace, console: Console) -> int:
    wanted = BackfillOptions(output=options.output, labels=dict(options.label or ()), until=options.until)
    return int(console.module("exporter.commands.backfill.backfill").backfill(options.config_file, wanted))


def _state(options: argparse.Namespace, console: Console) -> int:
    copy = console.module("exporter.commands.statecopy").copy
    return int(copy(getattr(options, "from"), options.to, console.environ, console.out))


def _simulate(options: argparse.Namespace, console: Console) -> int:
    try:
        console.module("exporter.simulators.serve").serve(options.vendor, *options.listen_address)
    except OSError as error:
        if error.errno in UNWRITABLE:
            raise
        console.say(f"cannot listen on {options.listen_address}: {error.strerror}", is_error=True)
        return 1
    return 0


def _assets(options: argparse.Namespace, console: Console) -> int:
    labels = console.load(options.config_file).label_names() if options.config_file else ()
    files = assets.contents(external_url=options.external_url, grafana_url=options.grafana_url, labels=labels)
    assets.write(files, options.output, force=options.force)
    for name in files:
        console.say(options.output / name)
    return 0


def _test_alert(options: argparse.Namespace, console: Console) -> int:
    send = console.module("exporter.commands.testalert").send
    for sentence in send(options.alertmanager_url, severity=options.severity, team=options.team):
        console.say(sentence)
    return 0


def _argument(read: Callable[[str], object]) -> Callable[[str], object]:
    """Return a function that raises argparse's own error for ValueError. argparse shows no other messages."""

    def convert(text: str) -> object:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _speed(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (speed := float(text)) < float("inf"):
            return speed
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def _timestamp(text: str) -> float:
    if (timestamp := parse_timestamp(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a time like 2024-05-01T00:00:00Z nor Unix seconds")
    return timestamp


def _flag(help_text: str, metavar: str | None = None, **options: object) -> dict[str, Any]:
    return {"help": help_text, **options, **({} if metavar is None else {"metavar": metavar})}


def _listen(default: str) -> dict[str, Any]:
    text = "address to listen on (default: %(default)s)"
    return _flag(text, "HOST:PORT", type=_argument(parse_address), default=default)


CONFIG_FILE = _flag("the config file", "F", type=Path)
PLACE = "a file, or postgresql://USER@HOST/DATABASE; ${VAR} is replaced from the environment"
NEEDS_CONFIG_FILE = {**CONFIG_FILE, "required": True}

COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "run the daemon: poll all sources, serve /metrics and pages; SIGTERM stops it, SIGHUP reloads the config",
        _run,
        {
            "--config.file": NEEDS_CONFIG_FILE,
            "--web.listen-address": _listen(":9797"),
            "--web.config.file": _flag("TLS and basic auth of the pages", "F", type=Path),
            "--log.level": _flag("minimum level to log", choices=get_args(logs.Level), default="info"),
            "--log.format": _flag("format of log lines", choices=tuple(logs.RENDERERS), default="logfmt"),
        },
    ),
    "check": Command(
        "report all problems of a config",
        _check,
        {
            "--config.file": CONFIG_FILE,
            "--live": _flag(
                "also sign in to each source, send a request, and find jobs for each objective", action="store_true"
            ),
            "--schema": _flag("print the JSON schema of the config", action="store_true"),
        },
    ),
    "once": Command(
        "poll each source once and print the result; does not use the state",
        lambda options, console: int(console.module("exporter.commands.once").once(options.config_file)),
        {"--config.file": NEEDS_CONFIG_FILE},
    ),
    "explain": Command(
        "list the runs behind a number, from the state of a running daemon",
        _explain,
        {
            "--config.file": NEEDS_CONFIG_FILE,
            "selector": _flag("""e.g. 'jobrun_runs_total{job_name="x"}'""", "SELECTOR"),
        },
    ),
    "backfill": Command(
        "write the metrics of runs from before the first poll, as OpenMetrics with timestamps for promtool",
        _backfill,
        {
            "--config.file": NEEDS_CONFIG_FILE,
            "--output": _flag("the file to write", "F", type=Path, required=True),
            "--label": _flag(
                "labels to add to all series, as the scrape does: usually job and instance",
                "name=value",
                type=_argument(parse_label),
                nargs="+",
                action="extend",
            ),
            "--until": _flag("latest time to write (default: the first poll of the daemon)", "T", type=_timestamp),
        },
    ),
    "state": Command(
        "copy a state between a file and PostgreSQL while no daemon uses either",
        _state,
        {
            "action": _flag("what to do", choices=("copy",)),
            "--from": _flag(PLACE, "PLACE", required=True),
            "--to": _flag(PLACE, "PLACE", required=True),
        },
    ),
    "demo": Command(
        "run simulated vendors and a daemon that polls them; needs no account",
        lambda options, console: int(
            console.module("exporter.commands.demo").demo(options.web_listen_address, options.speed)
        ),
        {
            "--web.listen-address": _listen(":9797"),
            "--speed": _flag("speed of simulated runs, as a multiple of real time", "N", type=_speed, default=60.0),
        },
    ),
    "simulate": Command(
        "run one simulated vendor API",
        _simulate,
        {"--vendor": _flag("name of the vendor", "V", required=True), "--listen-address": _listen("127.0.0.1:8080")},
    ),
    "test-alert": Command(
        "send one test alert through your Alertmanager and report who receives it",
        _test_alert,
        {
            "--alertmanager-url": _flag("address of Alertmanager, such as http://localhost:9093", "URL", required=True),
            "--team": _flag("label `team` of the alert", default=""),
            "--severity": _flag(
                "label `severity` of the alert", choices=("critical", "warning", "info"), default="warning"
            ),
        },
    ),
    "assets": Command(
        "write the rules, dashboards, runbooks and examples of this version",
        _assets,
        {
            "--output": _flag("output folder; created if it does not exist", "DIR", required=True, type=Path),
            "--external-url": _flag("address of the exporter's pages, for links", "U", default=""),
            "--grafana-url": _flag("address of Grafana, for links", "U", default=""),
            "--config.file": {**CONFIG_FILE, "help": "config whose `labels` of objectives are added to job alerts"},
            "--for": _flag("format of the rules", choices=("prometheus",), default="prometheus"),
            "--force": _flag("overwrite changed files too", action="store_true"),
        },
    ),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="jobrun-exporter",
        description="Reports the job runs of hosted systems to Prometheus and counts each completed run exactly once.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"jobrun-exporter {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        for flag, options in command.flags.items():
            dest: dict[str, Any] = {"dest": re.sub(r"[.-]", "_", flag.strip("-"))} if flag.startswith("-") else {}
            sub.add_argument(flag, **dest, **options)
    return top


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command and its options. Raises SystemExit for wrong usage, `--help` and `--version`."""
    top = parser()
    options = top.parse_args(argv)
    if options.command == "check" and not options.schema and options.config_file is None:
        top.error("check needs --config.file or --schema")
    if options.command == "simulate" and options.vendor not in SOURCES:
        top.error(f"--vendor must be one of: {', '.join(SOURCES)}")
    return options


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run a command. Return the exit code: 0 for success, 1 for an error, 2 for wrong usage.

    If the output is closed, the exit code is 141, as for a program that SIGPIPE kills.
    """
    console = console or _process_console()
    try:
        code = _run_command(argv, console)
        console.out.flush()
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        code = 1
        with contextlib.suppress(OSError):
            console.say(f"the output cannot be written: {error.strerror}", is_error=True)
    _discard_unwritable(console.out)
    _discard_unwritable(console.err)
    return code


def _process_console() -> Console:
    """Return the console of this process. Output to a closed stream, as with `2>&-`, is discarded."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  # a device, open until the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115  # as above
    return Console(sys.stdout, sys.stderr, os.environ)


def _discard_unwritable(stream: TextIO) -> None:
    """Discard the output that a stream cannot write. Otherwise Python would report it again at the exit."""
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # a device
            os.dup2(nowhere.fileno(), stream.fileno())


def _run_command(argv: Sequence[str] | None, console: Console) -> int:
    with contextlib.redirect_stdout(console.out), contextlib.redirect_stderr(console.err):
        try:
            options = parse(argv)
        except SystemExit as stop:
            return int(stop.code or 0)
    try:
        return COMMANDS[options.command].handle(options, console)
    except (ConfigError, JobrunError) as error:
        print(error, file=console.err)
    except KeyboardInterrupt:  # not in a daemon, which handles the signal itself
        result = "; nothing was written" if options.command == "backfill" else ""
        print(f"{options.command}: interrupted{result}", file=console.err)
    return 1
