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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO, cast

from exporter import __version__, assets, logs
from exporter.config import config
from exporter.config.problems import ConfigError, ConfigProblem
from exporter.errors import JobrunError
from exporter.history.options import Wanted, parse_label
from exporter.placing import place
from exporter.sources import SOURCES
from exporter.state.opening import problem
from exporter.times import parse_timestamp
from exporter.web.address import Address, parse_address

SETTINGS: config.Settings = {word: kind.settings for word, kind in SOURCES.items()}
"""The kinds of sources."""


class App(Protocol):
    """What the commands need of `exporter.app`."""

    def run(self, config_file: Path, listen: Address, web_config_file: Path | None, log: logs.LogOptions) -> int:
        """The daemon, until it is told to stop."""

    def once(self, config_file: Path) -> int:
        """One poll of every source, printed."""

    def explain(self, config: config.Config, selector: str, out: TextIO, err: TextIO) -> int:
        """Lists the runs that make up a number."""

    def backfill(self, config_file: Path, wanted: Wanted) -> int:
        """The past, as OpenMetrics."""

    def probe(self, config: config.Config) -> Iterator[tuple[str, bool, str]]:
        """Asks every source once: its name, whether it answered well, and a sentence."""

    def unmatched(self, config: config.Config) -> Iterator[str]:
        """Polls every source once and says which objectives no job has."""


class Demonstration(Protocol):
    """What the commands need of `exporter.demo`."""

    def demo(self, listen: Address, speed: float) -> int:
        """The daemon and simulated vendors."""


class Simulators(Protocol):
    """What the commands need of `exporter.simulators`."""

    def serve(self, vendor: str, host: str, port: int) -> None:
        """One simulated vendor, until it is told to stop."""


def _app() -> App:
    # Not at the top: --help and check shall not wait for the web server and the scheduler to be imported.
    return cast("App", importlib.import_module("exporter.app"))


def _demonstration() -> Demonstration:
    # Not at the top: a daemon needs no simulators.
    return cast("Demonstration", importlib.import_module("exporter.demo"))


def _simulators() -> Simulators:
    # Not at the top: as above.
    return cast("Simulators", importlib.import_module("exporter.simulators.serve"))


class Console(NamedTuple):
    """The world as the commands see it."""

    out: TextIO
    err: TextIO
    environ: Mapping[str, str]
    settings: config.Settings = SETTINGS
    app: Callable[[], App] = _app
    demonstration: Callable[[], Demonstration] = _demonstration
    simulators: Callable[[], Simulators] = _simulators


class Flag(NamedTuple):
    """A flag and what argparse is told about it."""

    name: str
    options: Mapping[str, Any]


class Command(NamedTuple):
    """A command: its help, its flags, and its handler, which gives the exit code."""

    help: str
    flags: tuple[Flag, ...]
    handle: Callable[[argparse.Namespace, Console], int]


def _run(options: argparse.Namespace, outside: Console) -> int:
    log = logs.LogOptions(options.log_level, options.log_format)
    return outside.app().run(options.config_file, options.listen, options.web_config_file, log)


def _check(options: argparse.Namespace, outside: Console) -> int:
    if options.schema:
        print(json.dumps(config.schema(outside.settings), indent=2), file=outside.out)
        return 0
    loaded = config.load(options.config_file, outside.environ, outside.settings)
    if reason := problem(Path(loaded.state.path)):
        raise ConfigError([ConfigProblem("state.path", reason)])
    count = len(loaded.sources)
    print(f"config is valid: {count} source{'s' if count > 1 else ''}", file=outside.out)
    for warning in loaded.warnings({word: kind.poll_requests for word, kind in SOURCES.items()}):
        print(f"warning: {warning}", file=outside.out)
    return _probe(loaded, outside) if options.live else 0


def _probe(loaded: config.Config, outside: Console) -> int:
    code = 0
    for name, answered, sentence in outside.app().probe(loaded):
        print(f"{name}: {sentence}", file=outside.out if answered else outside.err)
        code = code if answered else 1
    for warning in outside.app().unmatched(loaded) if code == 0 and loaded.objectives else ():
        print(f"warning: {warning}", file=outside.out)
    return code


def _once(options: argparse.Namespace, outside: Console) -> int:
    return outside.app().once(options.config_file)


def _explain(options: argparse.Namespace, outside: Console) -> int:
    loaded = config.load(options.config_file, outside.environ, outside.settings)
    return outside.app().explain(loaded, options.selector, outside.out, outside.err)


def _backfill(options: argparse.Namespace, outside: Console) -> int:
    wanted = Wanted(output=options.output, labels=dict(options.labels or ()), until=options.until)
    return outside.app().backfill(options.config_file, wanted)


def _demo(options: argparse.Namespace, outside: Console) -> int:
    return outside.demonstration().demo(options.listen, options.speed)


def _simulate(options: argparse.Namespace, outside: Console) -> int:
    outside.simulators().serve(options.vendor, options.listen.host, options.listen.port)
    return 0


def _assets(options: argparse.Namespace, outside: Console) -> int:
    labels: tuple[str, ...] = ()
    if options.config_file:
        labels = config.load(options.config_file, outside.environ, outside.settings).label_names()
    with tempfile.TemporaryDirectory() as staged:
        links = {"external_url": options.external_url, "grafana_url": options.grafana_url}
        written = [path.relative_to(staged) for path in assets.write(Path(staged), labels=labels, **links)]
        try:
            place(Path(staged), options.output, force=options.force)
        except OSError as error:
            raise assets.AssetError(f"{options.output} cannot be written: {error.strerror}") from None
    for name in written:
        print(options.output / name, file=outside.out)
    return 0


def _test_alert(options: argparse.Namespace, outside: Console) -> int:
    # Imported late: no other command here needs the libraries of HTTP.
    import httpx  # noqa: PLC0415

    from exporter import testalert  # noqa: PLC0415

    with httpx.Client(timeout=10) as client:
        for sentence in testalert.send(
            options.alertmanager_url, severity=options.severity, team=options.team, client=client
        ):
            print(sentence, file=outside.out)
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


def _instant(text: str) -> float:
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
        "says everything that is wrong with a config",
        (
            Flag("--config.file", CONFIG_FILE),
            Flag(
                "--live",
                {
                    "action": "store_true",
                    "help": "also sign in to every source and ask it once, and look for jobs of each objective",
                },
            ),
            Flag("--schema", {"action": "store_true", "help": "print the JSON schema of the config"}),
        ),
        _check,
    ),
    "once": Command(
        "polls every source once and prints what it saw; touches no state",
        (Flag("--config.file", {**CONFIG_FILE, "required": True}),),
        _once,
    ),
    "explain": Command(
        "lists the runs that make up a number, from the state beside a running daemon",
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
                    "type": _instant,
                    "metavar": "T",
                    "help": "the last instant that is written (default: since when the daemon counts)",
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
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="jobrun-exporter",
        description="Watches the job runs of hosted systems and tells Prometheus about every ending, exactly once.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"jobrun-exporter {__version__}")
    subparsers = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(name, help=command.help, description=command.help, allow_abbrev=False)
        for flag in command.flags:
            sub.add_argument(flag.name, **flag.options)
    return top


def parse(argv: Sequence[str] | None, settings: config.Settings) -> argparse.Namespace:
    """The command and its options. Exits as argparse does: 2 for wrong usage, 0 for help and version."""
    top = parser()
    options = top.parse_args(argv)
    if options.command == "check" and not options.schema and options.config_file is None:
        top.error("check needs --config.file or --schema")
    if options.command == "simulate" and options.vendor not in settings:
        top.error(f"--vendor must be one of: {', '.join(settings)}")
    return options


def main(argv: Sequence[str] | None = None, outside: Console | None = None) -> int:
    """Runs a command; gives the exit code: 0 fine, 1 the config or a source is wrong, 2 wrong usage.

    As of a program that SIGPIPE ends it is 141, when nobody reads the output any more.
    """
    world = outside or _process()
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
    """This process's world; what it was started without, as by `2>&-`, goes nowhere."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  # a device, open until the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115  # as above
    return Console(sys.stdout, sys.stderr, os.environ)


def _unwritten(error: OSError, err: TextIO) -> int:
    """The exit code where output could not be written; said, unless it is that nobody reads it."""
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    with contextlib.suppress(OSError):
        print(f"the output cannot be written: {error.strerror}", file=err)
    return 1


def _flush(stream: TextIO) -> OSError | None:
    """Write what is still in the buffer; return why it cannot be written. The exit then tries no more."""
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
            options = parse(argv, world.settings)
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
