"""A real Prometheus."""

import itertools
import json
import subprocess
from collections import Counter
from pathlib import Path
from urllib.parse import urlencode

import yaml

from tests.e2e.pages import COUNTED, Series, fetch
from tests.e2e.processes import HOST, eventually, free_port, needed


class Prometheus:
    """A server that scrapes one port twice a second, with some features switched on."""

    def __init__(self, folder: Path, target: int, features: str) -> None:
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        scrape = {
            "job_name": "jobruns",
            "scrape_interval": "500ms",
            "scrape_timeout": "500ms",
            "static_configs": [{"targets": [f"{HOST}:{target}"]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [
                    needed("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={HOST}:{self.port}",
                    f"--enable-feature={features}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def ready(self) -> bool:
        def look() -> bool:
            try:
                return fetch(self.port, "/-/ready")[0] == 200
            except OSError:
                return False

        return eventually(look)

    def ask(self, path: str, **parameters: object) -> list[dict]:
        status, _, body = fetch(self.port, f"/api/v1/{path}?{urlencode(parameters)}")
        assert status == 200, body
        data = json.loads(body)["data"]
        return data["result"] if isinstance(data, dict) else data

    def rises(self, stretch: str = "1h") -> Counter[Series]:
        """The sums of the positive steps of the raw samples, in the words of `pages.COUNTED`."""
        sums: Counter[Series] = Counter()
        for name, labels in COUNTED.items():
            for series in self.ask("query", query=f"{name}[{stretch}]"):
                numbers = [float(number) for _, number in series["values"]]
                steps = [max(0.0, after - before) for before, after in itertools.pairwise(numbers)]
                sums[name, *(series["metric"][label] for label in labels)] += int(sum(steps))
        return +sums

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)
