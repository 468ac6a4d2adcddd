"""Time of a scrape, compared with nginx that sends the same bytes from a file.

Usage: python -m benchmarks.scrape [SERIES …]
"""

import json
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Figure, elapsed, percentile, print_table
from benchmarks.render import Pages, view
from benchmarks.servers import Scraper, exporter, free_port, library, nginx, process, scrape_once, wait_for
from exporter.web.negotiation import OPENMETRICS, TEXT

GROUP = "scrape, time x nginx"
SERIES_PER_JOB = 85
CONCURRENT = 8
MISSING = "nginx is not installed: milliseconds instead of a ratio"
CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - {{job_name: exporter, static_configs: [{{targets: ["127.0.0.1:{ours}"]}}]}}
  - {{job_name: nginx, metrics_path: /openmetrics, static_configs: [{{targets: ["127.0.0.1:{theirs}"]}}]}}
"""


def measure(*sizes, repeats=200, seconds=15.0):
    for size in sizes or (1_000, 10_000, 100_000):
        yield from at_rest(size, repeats)
        if size == 10_000:
            yield from prometheus(size, seconds)
        if size >= 10_000:
            yield from during_polls(size, seconds)
        if size == 100_000:
            yield from against_library(size)


@contextmanager
def both(size, *, busy=False):
    """Yield the ports of the exporter's server and of nginx; None if nginx is not installed."""
    page = Pages([view(key) for key in range(jobs(size))]).exposition.page
    with nginx(page) as theirs, process(exporter, jobs(size), busy) as ours:
        yield ours, theirs


def jobs(size):
    return max(1, round(size / SERIES_PER_JOB))


def name(size):
    return f"{size / 1000:g} k series"


def at_rest(size, repeats):
    with both(size) as (ours, theirs):
        yield from formats(size, ours, theirs, repeats)
        yield concurrent(size, ours, theirs, repeats)


@contextmanager
def scrapers(ours, theirs, path="/metrics", accept=TEXT, encoding="gzip"):
    """Yield a connection to each server; None for a missing one."""
    with ExitStack() as stack:
        mine = stack.enter_context(Scraper(ours, "/metrics", accept, encoding))
        yield mine, stack.enter_context(Scraper(theirs, path, accept, encoding)) if theirs else None


def alternate(ours, theirs, repeats):
    """Return the seconds of scrapes of each server. They alternate, so that other load affects both."""
    pairs = [(elapsed(ours), elapsed(theirs) if theirs else None) for _ in range(repeats)]
    return [mine for mine, _ in pairs], [other for _, other in pairs if other is not None]


def figure(what, mine, others, target=None, by=statistics.median):
    if not others:
        return Figure(group=GROUP, what=what, value=by(mine) * 1e3, unit="ms", note=MISSING)
    note = f"{by(mine) * 1e3:.2f} ms against {by(others) * 1e3:.2f}"
    return Figure(group=GROUP, what=what, value=by(mine) / by(others), target=target, note=note)


def formats(size, ours, theirs, repeats):
    for accept, path, word in ((TEXT, "/metrics", "text"), (OPENMETRICS, "/openmetrics", "OpenMetrics")):
        for encoding, how in (("gzip", "gzip"), ("identity", "plain")):
            with scrapers(ours, theirs, path, accept, encoding) as (mine, other):
                assert other is None or mine() == other()
                taken = alternate(mine, other, repeats)
            target = 3.5 if encoding == "gzip" and size >= 10_000 else None
            yield figure(f"{name(size)}, {word}, {how}", *taken, target)


def concurrent(size, ours, theirs, repeats):
    mine = concurrent_scrapes(ours, repeats // 4)
    return figure(
        f"{name(size)}, text, gzip, {CONCURRENT} at once",
        mine,
        concurrent_scrapes(theirs, repeats // 4) if theirs else [],
    )


def concurrent_scrapes(port, repeats):
    """Return the seconds of each scrape of several clients at once."""
    taken = []

    def scrape():
        with Scraper(port) as scraper:
            taken.extend([elapsed(scraper) for _ in range(repeats)])

    threads = [threading.Thread(target=scrape) for _ in range(CONCURRENT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def during_polls(size, seconds):
    taken, reference = [], []
    with both(size, busy=True) as (ours, theirs):
        until = time.monotonic() + seconds
        with scrapers(ours, theirs) as (mine, other):
            while time.monotonic() < until:
                here, there = alternate(mine, other, 10)
                taken, reference = [*taken, *here], [*reference, *there]
                time.sleep(0.02)
    what = f"{name(size)}, text, gzip, a poll every 0.5 s"
    yield figure(f"{what}, p50", taken, reference, 3.5)
    yield figure(f"{what}, p99", taken, reference, 6, by=lambda each: percentile(each, 0.99))


def against_library(size):
    with process(library, jobs(size)) as theirs, process(exporter, jobs(size), False) as ours:
        scrape_once(theirs)
        slow = statistics.median([elapsed(lambda: scrape_once(theirs)) for _ in range(3)])
        fast = statistics.median([elapsed(lambda: scrape_once(ours)) for _ in range(50)])
    yield Figure(
        group="scrape",
        what=f"{name(size)}, times as fast as prometheus_client's app",
        value=slow / fast,
        target=500,
        at_least=True,
        note=f"{fast * 1e3:.2f} ms against {slow * 1e3:.0f}, gzip, a connection per scrape",
    )


def prometheus(size, seconds):
    """Yield the scrape durations of a real Prometheus; nothing if Prometheus or nginx is not installed."""
    program = shutil.which("prometheus")
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(both(size))
        if program is None or theirs is None:
            return
        folder = stack.enter_context(TemporaryDirectory())
        config = Path(folder) / "prometheus.yml"
        config.write_text(CONFIG.format(ours=ours, theirs=theirs))
        port = free_port()
        command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
        child = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)  # noqa: S603  # ours
        stack.callback(child.wait)
        stack.callback(child.terminate)
        wait_for(port)
        time.sleep(seconds + 3)
        mine, other = (median_duration(port, job, seconds) for job in ("exporter", "nginx"))
    note = f"{mine * 1e3:.1f} ms against {other * 1e3:.1f}, median of {seconds:.0f}"
    what = f"{name(size)}, a real Prometheus' scrape_duration"
    yield Figure(group=GROUP, what=what, value=mine / other, target=1.1, note=note)


def median_duration(port, job, seconds):
    query = f'quantile_over_time(0.5, scrape_duration_seconds{{job="{job}"}}[{seconds:.0f}s])'
    return query_value(port, query)


def query_value(port, query):
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url) as answer:
        return float(json.load(answer)["data"]["result"][0]["value"][1])


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:])))
