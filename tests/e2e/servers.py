"""Prometheus and Alertmanager as real processes, and a receiver of their notifications."""

import itertools
import json
import subprocess
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import yaml

from tests.e2e.processes import HOST, eventually, free_port, require_tool, skip_or_fail
from tests.e2e.scrapes import COUNTED, Series, fetch

NEWEST = Path(__file__).parents[2] / ".cache" / "newest" / "usr" / "bin"
"""The folder in which `scripts/newest-prometheus` puts the newest versions."""

VERSIONS = ("oldest", "newest")
"""The tested versions: the oldest supported one, from Debian, and the newest one."""


def program(name: str, version: str) -> str:
    """Return the path of a program. Skip or fail the test if the program is not installed."""
    if version == "oldest":
        return require_tool(name)
    path = NEWEST / name
    if not path.exists():
        skip_or_fail(f"the newest {name} is not here: scripts/newest-prometheus gets it")
    return str(path)


def ready(port: int) -> bool:
    """Wait until a server is ready. Return whether it is."""

    def is_ready() -> bool:
        try:
            return fetch(port, "/-/ready")[0] == 200
        except OSError:
            return False

    return eventually(is_ready)


class Server:
    """A process with its files and its log in a folder."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder = folder
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)


class Prometheus(Server):
    """A Prometheus that scrapes one port.

    Args:
        folder: Folder for its files. Data of an earlier process are served too.
        target: The port to scrape.
        features: Feature flags, separated by commas.
        version: `oldest` or `newest`.
        interval: Time between two scrapes.
        settings: Additions to its config.
        flags: Additional flags.
    """

    def __init__(
        self,
        folder: Path,
        target: int,
        features: str = "exemplar-storage",
        *,
        version: str = "oldest",
        interval: str = "500ms",
        settings: Mapping[str, object] | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        scrape = {
            "job_name": "jobruns",
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "static_configs": [{"targets": [f"{HOST}:{target}"]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrape], **(settings or {})}))
        super().__init__(
            folder,
            [
                program("prometheus", version),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={HOST}:{self.port}",
                f"--enable-feature={features}",
                *flags,
            ],
        )

    def ready(self) -> bool:
        """Wait until it is ready."""
        return ready(self.port)

    def ask(self, path: str, **parameters: object) -> list[dict]:
        """Return the data of a response of its API; for a query, the list of results."""
        status, _, body = fetch(self.port, f"/api/v1/{path}?{urlencode(parameters)}")
        assert status == 200, body
        data = json.loads(body)["data"]
        return data["result"] if isinstance(data, dict) and "result" in data else data

    def raw_increases(self, duration: str = "1h") -> Counter[Series]:
        """Return the sums of the increases between raw samples of the families `COUNTED`."""
        sums: Counter[Series] = Counter()
        for name, labels in COUNTED.items():
            for series in self.ask("query", query=f"{name}[{duration}]"):
                numbers = [float(number) for _, number in series["values"]]
                steps = [max(0.0, after - before) for before, after in itertools.pairwise(numbers)]
                sums[name, *(series["metric"][label] for label in labels)] += int(sum(steps))
        return +sums

    def increases(self, seconds: int) -> Counter[Series]:
        """Return `round(increase())` over the last seconds of the families `COUNTED`."""
        sums: Counter[Series] = Counter()
        for name, labels in COUNTED.items():
            for series in self.ask("query", query=f"round(increase({name}[{seconds}s]))"):
                sums[name, *(series["metric"][label] for label in labels)] += int(float(series["value"][1]))
        return +sums


class Alertmanager(Server):
    """An Alertmanager."""

    def __init__(self, folder: Path, settings: Mapping[str, object], *, version: str = "oldest") -> None:
        folder.mkdir()
        self.port = free_port()
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(dict(settings)))
        super().__init__(
            folder,
            [
                program("prometheus-alertmanager", version),
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address={HOST}:{self.port}",
                "--cluster.listen-address=",
            ],
        )

    def ready(self) -> bool:
        """Wait until it accepts alerts."""
        return ready(self.port)

    def post(self, *alerts: Mapping[str, object]) -> None:
        """Send alerts, as Prometheus does."""
        address = f"http://{HOST}:{self.port}/api/v2/alerts"
        call = urllib.request.Request(address, json.dumps(alerts).encode(), {"Content-Type": "application/json"})
        urllib.request.urlopen(call).close()  # noqa: S310  # loopback


class Receiver:
    """Receives notifications, as a pager would.

    Attributes:
        notifications: What was posted, in order.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.notifications: list[dict] = []
        self.url = f"http://{HOST}:{server.server_address[1]}/"

    def received(self, status: str = "firing") -> Counter[tuple[str, str]]:
        """Return the number of notifications of each alert, by its name and job or source."""
        return Counter(
            (alert["labels"]["alertname"], alert["labels"].get("job_name") or alert["labels"].get("source", ""))
            for notification in self.notifications
            for alert in notification["alerts"]
            if alert["status"] == status
        )

    def alert(self, name: str) -> dict:
        """Return the first alert of this name."""
        alerts = (alert for notification in self.notifications for alert in notification["alerts"])
        return next(alert for alert in alerts if alert["labels"]["alertname"] == name)


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Yield a receiver that listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            this_receiver.notifications.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        this_receiver = Receiver(server)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield this_receiver
        server.shutdown()
        thread.join()
