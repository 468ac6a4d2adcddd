"""What a scrape takes beside nginx sending the same bytes from a file: formats, sizes, many at once, during polls.

Usage: python -m benchmarks.scrape [SERIES …]
"""

import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Figure, elapsed, middle, percentile, show
from benchmarks.render import full, view
from benchmarks.servers import Scraper, exporter, free_port, library, nginx, once, process, wait_for
from exporter.negotiation import OPENMETRICS, TEXT

GROUP = "scrape, time x nginx"
SERIES_A_JOB = 85
AT_ONCE = 8
MISSING = "nginx is not installed: milliseconds instead of a ratio"
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - {{job_name: exporter, static_configs: [{{targets: ["127.0.0.1:{ours}"]}}]}}
  - {{job_name: nginx, metrics_path: /openmetrics, static_configs: [{{targets: ["127.0.0.1:{theirs}"]}}]}}
"""


def measure(*sizes, repeats=200, seconds=15.0):
    for size in sizes or (1_000, 10_000, 100_000):
        yield from at(size, repeats, seconds)


def at(size, repeats, seconds):
    jobs = max(1, round(size / SERIES_A_JOB))
    name = f"{size / 1000:g} k series"
    page = full([view(key) for key in range(jobs)]).page
    with nginx(page) as theirs:
        with process(exporter, jobs, False) as ours:
            yield from formats(name, ours, theirs, repeats)
            yield crowd(name, ours, theirs, repeats)
            if size == 10_000:
                yield from prometheus(name, ours, theirs, seconds)
            if size == 100_000:
                yield from beside_library(name, ours, jobs)
        if size >= 10_000:
            with process(exporter, jobs, True) as ours:
                yield from during_polls(name, ours, theirs, seconds)


def against(ours, theirs, repeats):
    """Seconds of scrapes of both servers, in turn, so that the rest of the machine disturbs both alike."""
    pairs = [(elapsed(ours), elapsed(theirs) if theirs else None) for _ in range(repeats)]
    return [mine for mine, _ in pairs], [other for _, other in pairs if other is not None]


def figure(what, mine, others, target=None, by=middle):
    if not others:
        return Figure(group=GROUP, what=what, value=by(mine) * 1e3, unit="ms", note=MISSING)
    note = f"{by(mine) * 1e3:.2f} ms against {by(others) * 1e3:.2f}"
    return Figure(group=GROUP, what=what, value=by(mine) / by(others), target=target, note=note)


def formats(name, ours, theirs, repeats):
    for accept, path, word in ((TEXT, "/metrics", "text"), (OPENMETRICS, "/openmetrics", "OpenMetrics")):
        for encoding in ("gzip", "identity"):
            mine = Scraper(ours, "/metrics", accept, encoding)
            other = Scraper(theirs, path, accept, encoding) if theirs else None
            assert other is None or abs(mine() - other()) < 20_000  # the process's own metrics differ
            target = 3.5 if encoding == "gzip" and not name.startswith("1 k") else None
            plain = "gzip" if encoding == "gzip" else "plain"
            yield figure(f"{name}, {word}, {plain}", *against(mine, other, repeats), target)


def crowd(name, ours, theirs, repeats):
    mine = many(ours, repeats // 4)
    return figure(f"{name}, text, gzip, {AT_ONCE} at once", mine, many(theirs, repeats // 4) if theirs else [])


def many(port, repeats):
    """Seconds of each of several scrapes that come at once, again and again."""
    taken = []

    def scrape():
        scraper = Scraper(port)
        taken.extend([elapsed(scraper) for _ in range(repeats)])

    threads = [threading.Thread(target=scrape) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def during_polls(name, ours, theirs, seconds):
    mine, other = Scraper(ours), Scraper(theirs) if theirs else None
    until = time.monotonic() + seconds
    taken, beside = [], []
    while time.monotonic() < until:
        here, there = against(mine, other, 10)
        taken, beside = [*taken, *here], [*beside, *there]
        time.sleep(0.02)
    what = f"{name}, text, gzip, a poll every 0.5 s"
    yield figure(f"{what}, p50", taken, beside, 3.5)
    yield figure(f"{what}, p99", taken, beside, 6, by=lambda each: percentile(each, 0.99))


def beside_library(name, ours, jobs):
    with process(library, jobs) as port:
        once(port)
        theirs = middle([elapsed(lambda: once(port)) for _ in range(3)])
    mine = middle([elapsed(lambda: once(ours)) for _ in range(50)])
    yield Figure(
        group="scrape",
        what=f"{name}, times as fast as prometheus_client's app",
        value=theirs / mine,
        target=500,
        at_least=True,
        note=f"{mine * 1e3:.2f} ms against {theirs * 1e3:.0f}, gzip, a connection each",
    )


def prometheus(name, ours, theirs, seconds):
    """What a real Prometheus says that the scrapes took."""
    program = shutil.which("prometheus")
    if program is None or theirs is None:
        return
    with TemporaryDirectory() as folder, ExitStack() as stack:
        config = Path(folder) / "prometheus.yml"
        config.write_text(CONFIG.format(ours=ours, theirs=theirs))
        port = free_port()
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
        child = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)  # noqa: S603  # ours
        stack.callback(child.wait)
        stack.callback(child.terminate)
        wait_for(port)
        time.sleep(seconds + 3)
        took = [
            asked(port, f'quantile_over_time(0.5, scrape_duration_seconds{{job="{job}"}}[{seconds:.0f}s])')
            for job in ("exporter", "nginx")
        ]
    note = f"{took[0] * 1e3:.1f} ms against {took[1] * 1e3:.1f}, median of {seconds:.0f}"
    yield Figure(
        group=GROUP, what=f"{name}, a real Prometheus' scrape_duration", value=took[0] / took[1], target=1.1, note=note
    )


def asked(port, query):
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url) as answer:
        return float(json.load(answer)["data"]["result"][0]["value"][1])


if __name__ == "__main__":
    show(measure(*map(int, sys.argv[1:])))
