"""Cost of one small GET with the exporter's client (budget, metrics, limits, sign-in), compared with http.client.

Usage: python -m benchmarks.client [REQUESTS]
"""

import http.client
import socket
import sys
import threading
import time

from prometheus_client import CollectorRegistry

from benchmarks.measure import Figure, minimum_cost, print_table
from exporter.client.budget import Budget
from exporter.client.client import HEADERS, Client
from exporter.client.signin import BearerAuth
from exporter.metrics.requests import RequestMetrics
from exporter.sources.snowplow.api import RUNS

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Fri, 29 May 2026 12:00:00 GMT\r\n"
    b"Content-Length: 2\r\n\r\n[]"
)


class Server(threading.Thread):
    """Serves one connection at a time in its own thread, whose CPU is not counted."""

    def __init__(self):
        super().__init__(daemon=True)
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def run(self):
        for _ in range(2):  # ours and theirs
            connection, _ = self.socket.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()
        self.socket.close()

    def serve(self, connection):
        with connection:
            while connection.recv(65536):
                connection.sendall(ANSWER)


def of_thread(action):
    """Return the CPU seconds of this thread."""
    begun = time.thread_time()
    action()
    return time.thread_time() - begun


def measure(requests=500):
    server = Server()
    server.start()
    root = f"http://127.0.0.1:{server.port}/api/msc/v1"
    meter = RequestMetrics(CollectorRegistry()).source("bench", (RUNS,))
    budget = Budget(1e6, monotonic=time.monotonic, sleep=time.sleep)
    client = Client(root, BearerAuth(lambda: "secret"), budget, recorder=meter)
    bare = http.client.HTTPConnection("127.0.0.1", server.port)

    def ours():
        for _ in range(requests):
            client.get("/jobs", endpoint=RUNS)

    def theirs():
        for _ in range(requests):
            bare.request("GET", "/api/msc/v1/jobs", headers=HEADERS)
            bare.getresponse().read()

    ours()
    mine, reference_cost = minimum_cost(lambda: ours, by=of_thread), minimum_cost(lambda: theirs, by=of_thread)
    client.close()
    bare.close()
    note = f"{mine / requests * 1e6:.0f} us against {reference_cost / requests * 1e6:.0f} us"
    yield Figure(group="client", what="small GET, CPU x http.client", value=mine / reference_cost, target=5, note=note)


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:2])))
