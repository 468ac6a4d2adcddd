"""The command line: one table of commands, their flags, and what they call."""

import argparse
import contextlib
import errno
import importlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from exporter import __version__, logs
from exporter.assets import AssetError
from exporter.commands import assets
from exporter.commands.backfill.options import BackfillOptions, parse_label
from exporter.commands.placing import place
from exporter.config import Config, ConfigError, ConfigProblem, load, schema
from exporter.errors import JobrunError
from exporter.sources import SETTINGS, SOURCES
from exporter.state.location import problem_of
from exporter.times import parse_timestamp
from exporter.web.address import Address, parse_address


class Console(NamedTuple):
    """The process as the commands see it.

    Attributes:
        out: Standard output.
        err: Standard error.
        environ: Environment variables.
        module: Imports a command by name. Only the command that runs is imported: `--help` and `check` do not wait for
            the web server and the scheduler, and a daemon needs no simulators.
    """

    out: TextIO
    err: TextIO
    environ: Mapping[str, str]
    module: Callable[[str], Any] = importlib.import_module

    def load(self, config_file: Path) -> Config:
        """Return a config. Raises ConfigError."""
        return load(config_file, self.environ, SETTINGS)


class Flag(NamedTuple):
    """A flag and its arguments for argparse."""

    name: str
    options: Mapping[str, Any]


Handler = Callable[[argparse.Namespace, Console], int]
"""Runs a command; returns the exit code."""


class Command(NamedTuple):
    """A command: its help, its flags, and its handler."""

    help: str
    flags: tuple[Flag, ...]
    handle: Handler


def _run(options: argparse.Namespace, console: Console) -> int:
    log = logs.LogOptions(options.log_level, options.log_format)
    command = console.module("exporter.commands.run")
    return int(command.run(options.config_file, options.listen, options.web_config_file, log))


def _check(options: argparse.Namespace, console: Console) -> int:
    if options.schema:
        print(json.dumps(schema(SETTINGS), indent=2), file=console.out)
        return 0
    config = console.load(options.config_file)
    url = config.state.database()
    if reason := problem_of(Path(config.state.path), url):
        raise ConfigError([ConfigProblem("state.path" if url is None else "state.url", reason)])
    count = len(config.sources)
    print(f"config is valid: {count} source{'s' if count > 1 else ''}", file=console.out)
    for warning in config.warnings({word: kind.poll_requests for word, kind in SOURCES.items()}):
        print(f"warning: {warning}", file=console.out)
    return _probe(config, console) if options.live else 0


def _probe(config: Config, console: Console) -> int:
    check, code = console.module("exporter.commands.check"), 0
    for harmless, sentence in check.verify_state(config):
        print(f"{'warning: ' if harmless else ''}state.url {sentence}", file=console.out if harmless else console.err)
        code = code if harmless else 1
    for name, answered, sentence in check.probe(config):
        print(f"{name}: {sentence}", file=console.out if answered else console.err)
        code = code if answered else 1
    for warning in check.unmatched(config) if code == 0 and config.objectives else ():
        print(f"warning: {warning}", file=console.out)
    return code


def _once(options: argparse.Namespace, console: Console) -> int:
    return int(console.module("exporter.commands.once").once(options.config_file))


def _explain(options: argparse.Namespace, console: Console) -> int:
    config = console.load(options.config_file)
    command = console.module("exporter.commands.explain.explain")
    return int(command.explain(config, options.selector, console.out, console.err))


def _backfill(options: argparse.Namespace, console: Console) -> int:
    wanted = BackfillOptions(output=options.output, labels=dict(options.labels or ()), until=options.until)
    return int(console.module("exporter.commands.backfill.backfill").backfill(options.config_file, wanted))


def _demo(options: argparse.Namespace, console: Console) -> int:
    return int(console.module("exporter.commands.demo").demo(options.listen, options.speed))


def _simulate(options: argparse.Namespace, console: Console) -> int:
    address = options.listen
    console.module("exporter.simulators.serve").serve(options.vendor, address.host, address.port)
    return 0


def _assets(options: argparse.Namespace, console: Console) -> int:
    labels = console.load(options.config_file).label_names() if options.config_file else ()
    with tempfile.TemporaryDirectory() as staged:
        links = {"external_url": options.external_url, "grafana_url": options.grafana_url}
        written = [path.relative_to(staged) for path in assets.write(Path(staged), labels=labels, **links)]
        try:
            place(Path(staged), options.output, force=options.force)
        except OSError as error:
            raise AssetError(f"{options.output} cannot be written: {error.strerror}") from None
    for name in written:
        print(options.output / name, file=console.out)
    return 0


def _test_alert(options: argparse.Namespace, console: Console) -> int:
    command = console.module("exporter.commands.testalert")
    for sentence in command.send(options.alertmanager_url, severity=options.severity, team=options.team):
        print(sentence, file=console.out)
    return 0


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _speed(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (speed := float(text)) < float("inf"):
            return speed
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def _label(text: str) -> tuple[str, str]:
    try:
        return parse_label(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _timestamp(text: str) -> float:
    timestamp = parse_timestamp(text)
    if timestamp is None:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a time like 2024-05-01T00:00:00Z nor Unix seconds")
    return timestamp


CONFIG_FILE = {"dest": "config_file", "type": Path, "metavar": "F", "help": "the config file"}
LISTEN = {"dest": "listen", "type": _address, "metavar": "HOST:PORT", "help": "where to listen (default: %(default)s)"}

COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "the daemon: polls all sources, serves /metrics and pages; SIGTERM stops it, SIGHUP reloads the config",
        (
            Flag("--config.file", {**CONFIG_FILE, "required": True}),
            Flag("--web.listen-address", {**LISTEN, "default": ":9797"}),
            Flag(
                "--web.config.file",
                {"dest": "web_config_file", "type": Path, "metavar": "F", "help": "TLS and basic auth of the pages"},
            ),
            Flag(
                "--log.level",
                {"dest": "log_level", "choices": tuple(logs.LEVELS), "default": "info", "help": "least level to log"},
            ),
            Flag(
                "--log.format",
                {"dest": "log_format", "choices": tuple(logs.RENDERERS), "default": "logfmt", "help": "form of a line"},
            ),
        ),
        _run,
    ),
    "check": Command(
        "reports everything that is wrong with a config",
        (
            Flag("--config.file", CONFIG_FILE),
            Flag(
                "--live",
                {
                    "action": "store_true",
                    "help": "also sign in to each source, ask it once, and look for jobs of each objective",
                },
            ),
            Flag("--schema", {"action": "store_true", "help": "print the JSON schema of the config"}),
        ),
        _check,
    ),
    "once": Command(
        "polls each source once and prints what it reported; touches no state",
        (Flag("--config.file", {**CONFIG_FILE, "required": True}),),
        _once,
    ),
    "explain": Command(
        "lists the runs that make up a number, from the state of a running daemon",
        (
            Flag("--config.file", {**CONFIG_FILE, "required": True}),
            Flag("selector", {"metavar": "SELECTOR", "help": """e.g. 'jobrun_runs_total{job_name="x"}'"""}),
        ),
        _explain,
    ),
    "backfill": Command(
        "writes what happened before the daemon counted as OpenMetrics with timestamps, for promtool",
        (
            Flag("--config.file", {**CONFIG_FILE, "required": True}),
            Flag("--output", {"type": Path, "required": True, "metavar": "F", "help": "the file to write"}),
            Flag(
                "--label",
                {
                    "dest": "labels",
                    "type": _label,
                    "nargs": "+",
                    "action": "extend",
                    "metavar": "name=value",
                    "help": "labels for all series: those that the scrape adds, usually job and instance",
                },
            ),
            Flag(
                "--until",
                {
                    "type": _timestamp,
                    "metavar": "T",
                    "help": "the latest time to write (default: when the daemon began to count)",
                },
            ),
        ),
        _backfill,
    ),
    "demo": Command(
        "simulated vendors and a daemon that reads them: no account needed",
        (
            Flag("--web.listen-address", {**LISTEN, "default": ":9797"}),
            Flag(
                "--speed",
                {
                    "type": _speed,
                    "default": 60.0,
                    "metavar": "N",
                    "help": "how many times faster runs happen",
                },
            ),
        ),
        _demo,
    ),
    "simulate": Command(
        "one simulated vendor's API",
        (
            Flag("--vendor", {"required": True, "metavar": "V", "help": "which vendor"}),
            Flag("--listen-address", {**LISTEN, "default": "127.0.0.1:8080"}),
        ),
        _simulate,
    ),
    "test-alert": Command(
        "sends one test alert through your Alertmanager and says who gets it",
        (
            Flag("--alertmanager-url", {"required": True, "metavar": "URL", "help": "like http://localhost:9093"}),
            Flag("--team", {"default": "", "help": "its label team"}),
            Flag(
                "--severity",
                {"choices": ("critical", "warning", "info"), "default": "warning", "help": "its label severity"},
            ),
        ),
        _test_alert,
    ),
    "assets": Command(
        "writes the rules, dashboards, runbooks and examples of this version",
        (
            Flag(
                "--output", {"required": True, "type": Path, "metavar": "DIR", "help": "where; made if it is not there"}
            ),
            Flag(
                "--external-url", {"default": "", "metavar": "U", "help": "address of the exporter's pages, for links"}
            ),
            Flag("--grafana-url", {"default": "", "metavar": "U", "help": "address of Grafana, for links"}),
            Flag("--config.file", {**CONFIG_FILE, "help": "whose `labels` of objectives alerts of jobs get too"}),
            Flag(
                "--for",
                {"dest": "kind", "choices": ("prometheus",), "default": "prometheus", "help": "form of the rules"},
            ),
            Flag("--force", {"action": "store_true", "help": "overwrite files that were changed since"}),
        ),
        _assets,
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
        for flag in command.flags:
            sub.add_argument(flag.name, **flag.options)
    return top


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command and its options. Exits as argparse does: 2 for wrong usage, 0 for help and version."""
    top = parser()
    options = top.parse_args(argv)
    if options.command == "check" and not options.schema and options.config_file is None:
        top.error("check needs --config.file or --schema")
    if options.command == "simulate" and options.vendor not in SETTINGS:
        top.error(f"--vendor must be one of: {', '.join(SETTINGS)}")
    return options


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Run a command. Return the exit code: 0 fine, 1 the config or a source is wrong, 2 wrong usage.

    It is 141 when nobody reads the output any more, as for a program that SIGPIPE ends.
    """
    world = console or _process()
    try:
        code = _command(argv, world)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        code = _unwritten(error, world.err)
    if (unwritten := _flush(world.out)) is not None:
        code = _unwritten(unwritten, world.err)
    _flush(world.err)  # a log that cannot be written changes no exit code
    return code


def _process() -> Console:
    """Return this process's console; output to a closed stream, as by `2>&-`, is dropped."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  # a device, open until the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115  # as above
    return Console(sys.stdout, sys.stderr, os.environ)


def _unwritten(error: OSError, err: TextIO) -> int:
    """Return the exit code after output could not be written; report the error unless nobody reads the output."""
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    with contextlib.suppress(OSError):
        print(f"the output cannot be written: {error.strerror}", file=err)
    return 1


def _flush(stream: TextIO) -> OSError | None:
    """Write what is still in the buffer; return why it cannot be written. The exit then does not try again."""
    try:
        stream.flush()
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # a device
            os.dup2(nowhere.fileno(), stream.fileno())
        return error
    return None


def _command(argv: Sequence[str] | None, world: Console) -> int:
    with contextlib.redirect_stdout(world.out), contextlib.redirect_stderr(world.err):
        try:
            options = parse(argv)
        except SystemExit as stop:
            return int(stop.code or 0)
    try:
        return COMMANDS[options.command].handle(options, world)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=world.err)
    except JobrunError as error:
        print(error, file=world.err)
    except KeyboardInterrupt:  # the daemon stops by itself; what else is interrupted has no result
        result = "; nothing was written" if options.command == "backfill" else ""
        print(f"{options.command}: interrupted{result}", file=world.err)
    return 1
