"""A proxy in front of replicas, so that they are one target for a scraper."""

import http.client
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.e2e.processes import HOST
from tests.e2e.scrapes import fetch

TIMEOUT = 1.0
"""Seconds that the proxy waits for a replica before it asks the next one."""


class ReplicaProxy(ThreadingHTTPServer):
    """A proxy that sends each request to the next replica, and tries another one after 503, a refusal or a timeout."""

    daemon_threads = True

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = ports
        self._last = 0
        super().__init__((HOST, 0), _ProxyHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def ask(self, path: str) -> tuple[int, bytes]:
        """Return status and body of the next replica that answers with 200; 503 if none does."""
        first = self._last = self._last + 1
        for number in range(len(self._ports)):
            try:
                status, _, body = fetch(self._ports[(first + number) % len(self._ports)], path, timeout=TIMEOUT)
            except (OSError, http.client.HTTPException):
                continue
            if status == 200:
                return status, body
        return 503, b"no replica answers"


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ReplicaProxy

    def do_GET(self) -> None:  # the name comes from the base class
        status, body = self.server.ask(self.path)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name comes from the base class
        """Log nothing."""
