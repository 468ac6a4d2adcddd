"""Servers of one page, each in a process: the exporter's, the client library's, and nginx with files."""

import multiprocessing
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import prometheus_client

from benchmarks.render import FixedRegistry, Pages, view
from benchmarks.vendor import body, polled_sources, stamp
from exporter.commands.run import SWITCH_INTERVAL
from exporter.sources.snowplow.source import EVENT_LIMIT
from exporter.web.application import WebHandlers, application
from exporter.web.negotiation import OPENMETRICS, TEXT
from exporter.web.server import WebServer

SPAWN = multiprocessing.get_context("spawn")
POLL_SECONDS = 0.5
"""Seconds between two polls of a busy exporter."""
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{}}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; gzip_static on; root {folder};
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen 127.0.0.1:{port};
    location = /metrics {{ default_type "{text}"; }}
    location = /openmetrics {{ default_type "{openmetrics}"; }}
  }}
}}
"""


@contextmanager
def process(work, *arguments):
    """Run a server in a process until the block ends; yield its port."""
    ours, theirs = SPAWN.Pipe()
    child = SPAWN.Process(target=work, args=(theirs, *arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        child.terminate()
        child.join()


def exporter(pipe, jobs, busy):
    """Run the exporter's server; `busy`: every half second it also polls 10 k runs and renders 1 % of the jobs."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    pages = Pages([view(key) for key in range(jobs)])
    answers = WebHandlers(
        page=lambda: pages.exposition.page,
        scraped=lambda _: None,
        healthy=lambda: (True, ""),
        ready=lambda: (True, ""),
        reload=lambda: (True, ""),
    )
    with WebServer(application(answers), "127.0.0.1", 0) as server:
        pipe.send(server.port)
        if busy:
            keep_polling(pages, jobs)
        threading.Event().wait()


def keep_polling(pages, jobs):
    with polled_sources() as one:
        known, runs = one.pass_hour(EVENT_LIMIT), 1
        # The response is prepared bytes, because encoding 10 k rows here would block the measured process.
        known_rows = one.api.body.removesuffix(b"]")
        while True:
            begun = time.monotonic()
            one.now, runs = one.now + 1, runs + 1
            going_on = {**known[0], "runId": "open", "state": "RUNNING", "startTime": stamp(one.now)}
            one.api.body = known_rows + b"," + body([going_on]).removeprefix(b"[")
            one.poll()
            pages.publish([view(key, runs) for key in range(0, jobs, 100)])
            time.sleep(max(0.0, begun + POLL_SECONDS - time.monotonic()))


def library(pipe, jobs):
    """Run the client library's server with a registry of the same series."""
    registry = FixedRegistry(bytes(Pages([view(key) for key in range(jobs)]).exposition.page.text).decode())
    server, _ = prometheus_client.start_http_server(0, "127.0.0.1", registry=registry)
    pipe.send(server.server_port)
    threading.Event().wait()


@contextmanager
def nginx(page):
    """Run nginx, which sends a page from files, compressed if accepted; yield None if it is not installed."""
    program = shutil.which("nginx")
    if program is None:
        yield None
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "metrics").write_bytes(bytes(page.text))
        (folder / "metrics.gz").write_bytes(bytes(page.text_gzip))
        (folder / "openmetrics").write_bytes(bytes(page.openmetrics))
        (folder / "openmetrics.gz").write_bytes(bytes(page.openmetrics_gzip))
        port = free_port()
        (folder / "conf").write_text(NGINX.format(folder=folder, port=port, text=TEXT, openmetrics=OPENMETRICS))
        child = subprocess.Popen([program, "-c", folder / "conf", "-e", folder / "errors"])  # noqa: S603  # a known file
        try:
            wait_for(port)
            yield port
        finally:
            child.terminate()
            child.wait()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(port, seconds=20):
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


class Scraper:
    """A client connection that requests a page repeatedly, with minimal overhead."""

    def __init__(self, port, path="/metrics", accept=TEXT, encoding="gzip"):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n\r\n"
        ).encode()
        self.buffer = bytearray(1 << 20)

    def __call__(self):
        """Request the page once; return its length as sent."""
        self.socket.sendall(self.request)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.socket.recv(65536)
            if not piece:
                break
            head += piece
        head, _, rest = head.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        assert head.split(b" ", 2)[1] == b"200", head
        length = int(lines[b"content-length"])
        left = length - len(rest)
        while left > 0:
            left -= self.socket.recv_into(self.buffer)
        return length

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def scrape_once(port):
    """Request the page on a new connection, and read until the server closes it."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n")
        while connection.recv(1 << 20):
            pass
