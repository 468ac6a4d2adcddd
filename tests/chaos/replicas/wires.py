"""A network between a replica and its database that can lose, delay and reset, at any time or at a chosen message."""

import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from exporter.state.lease_statements import EXTEND
from tests.e2e.processes import HOST

BEGIN = b"BEGIN; SET LOCAL"
COMMIT = b"COMMIT\0"

LEASE = EXTEND.split("?")[0].encode()
"""The first statement of each transaction that writes."""

Way = Literal["up", "down"]
"""From the replica to the database, or back."""


def steady_port() -> int:
    """Return a free port that no outgoing connection is given while nobody listens on it."""
    while True:
        port = random.randint(12_000, 32_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


class Trap:
    """Acts at the n-th message of a replica's transactions, or at the n-th that contains a text.

    Args:
        left: Messages until then.
        act: Called at that message, or at its answer.
        text: What the messages that count hold, inside a transaction or not; b"": any message of a transaction.
        forward: Whether the message reaches the database.
        at_answer: Whether to act when the response has arrived; it gets lost.
    """

    def __init__(
        self, left: int, act: Callable[[], object], text: bytes = b"", *, forward: bool = True, at_answer: bool = False
    ) -> None:
        self.text, self.forward, self.at_answer = text, forward or at_answer, at_answer
        self._left, self._act = left, act
        self._lock = threading.Lock()
        self._canceled = False
        self.acted = False

    def is_at(self, data: bytes, *, inside: bool) -> bool:
        """Count a message. Return whether to act at it."""
        if self.text in data if self.text else inside:
            self._left -= 1
            return self._left == 0
        return False

    def act(self) -> None:
        """Act, unless the trap was canceled."""
        with self._lock:
            if not self._canceled:
                self.acted = True
                self._act()

    def cancel(self) -> None:
        """Never act from now on."""
        with self._lock:
            self._canceled = True


class _Pair:
    """A connection of a replica, and the one to the database that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.inside = False
        self.sprung: Trap | None = None

    def close(self, *, abruptly: bool = False) -> None:
        for each in (self.client, self.server):
            end(each, abruptly=abruptly)


def end(connection: socket.socket, *, abruptly: bool = False) -> None:
    """End a connection, also for a thread that waits for it."""
    with suppress(OSError):
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class Wire:
    """A TCP proxy with one port. `target`: returns the port to which it leads now."""

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._open: dict[Way, threading.Event] = {"up": threading.Event(), "down": threading.Event()}
        for gate in self._open.values():
            gate.set()
        self.refuses = False
        self.trap: Trap | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    # --- what troubles do ---

    def hold(self, *ways: Way) -> None:
        """Keep bytes back."""
        for way in ways:
            self._open[way].clear()

    def release(self) -> None:
        """Let bytes pass again, those kept back first."""
        for gate in self._open.values():
            gate.set()

    def cut(self) -> None:
        """Reset all connections."""
        for pair in self._all():
            pair.close(abruptly=True)

    def half_open(self) -> None:
        """End all connections to the database without the replica noticing."""
        for pair in self._all():
            end(pair.server)

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self.release()
        self.cut()

    def _all(self) -> list[_Pair]:
        with self._lock:
            return list(self._pairs)

    # --- connections ---

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                end(client, abruptly=True)
                continue
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((HOST, self._target()), timeout=3)
        except OSError:
            end(client, abruptly=True)
            return
        server.settimeout(None)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.add(pair)
        threading.Thread(target=self._answers, args=(pair,), daemon=True).start()
        self._questions(pair)
        pair.close()
        with self._lock:
            self._pairs.discard(pair)

    def _questions(self, pair: _Pair) -> None:
        with suppress(OSError):
            while data := pair.client.recv(65536):
                self._open["up"].wait()
                if self._passes(pair, data):
                    with suppress(OSError):  # half open: the replica learns nothing of it
                        pair.server.sendall(data)

    def _answers(self, pair: _Pair) -> None:
        ended = False
        with suppress(OSError):
            while data := pair.server.recv(65536):
                self._open["down"].wait()
                if pair.sprung is not None:
                    pair.sprung.act()
                    break
                pair.client.sendall(data)
            else:
                ended = pair.server.fileno() != -1  # closed by the database, not by a trouble
        if ended or pair.sprung is not None:
            pair.close(abruptly=pair.sprung is not None)

    def _passes(self, pair: _Pair, data: bytes) -> bool:
        """Return whether a message reaches the database; act if it is the one to act at."""
        inside = pair.inside or BEGIN in data
        pair.inside = inside and COMMIT not in data
        trap = self.trap
        if trap is None or not trap.is_at(data, inside=inside):
            return True
        self.trap = None
        if trap.at_answer:
            pair.sprung = trap
        else:
            trap.act()
        return trap.forward


class Flapping:
    """Connections of a wire that are reset every few tenths of a second, until `end`."""

    def __init__(self, wire: Wire, dice: random.Random) -> None:
        self._ended = threading.Event()
        self._wire, self._dice = wire, random.Random(dice.random())
        self._thread = threading.Thread(target=self._flap, daemon=True)
        self._thread.start()

    def _flap(self) -> None:
        while not self._ended.wait(self._dice.uniform(0.1, 0.6)):
            self._wire.refuses = not self._wire.refuses
            self._wire.cut()

    def end(self) -> None:
        """Let connections be."""
        self._ended.set()
        self._thread.join()
        self._wire.refuses = False
