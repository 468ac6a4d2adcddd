"""A TCP proxy between a replica and its database. It can lose, hold and reset, also at a chosen message."""

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

EXTEND_LEASE = EXTEND.split("?")[0].encode()
"""Start of the statement that extends a lease: the first one in each transaction that writes."""

Direction = Literal["up", "down"]
"""To the database, or from it."""


def unassigned_port() -> int:
    """Return a free port that the system assigns to no outgoing connection, even if nothing listens on it."""
    while True:
        port = random.randint(12_000, 32_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


class MessageTrigger:
    """Calls a function at the n-th message in transactions, or at the n-th message that contains a text.

    Args:
        number: n.
        act: The function.
        text: Text of the messages that count, in a transaction or not; b"" for all messages in transactions.
        forward: Whether the database gets the message.
        at_answer: Whether to call the function when the answer arrives. The replica does not get the answer.
    """

    def __init__(
        self,
        number: int,
        act: Callable[[], object],
        text: bytes = b"",
        *,
        forward: bool = True,
        at_answer: bool = False,
    ) -> None:
        self.text, self.forward, self.at_answer = text, forward or at_answer, at_answer
        self._left, self._act = number, act
        self._lock = threading.Lock()
        self._canceled = False
        self.fired = False

    def is_due(self, data: bytes, *, in_transaction: bool) -> bool:
        """Count a message. Return whether it is the n-th."""
        if self.text in data if self.text else in_transaction:
            self._left -= 1
            return self._left == 0
        return False

    def fire(self) -> None:
        """Call the function, unless the trigger was canceled."""
        with self._lock:
            if not self._canceled:
                self.fired = True
                self._act()

    def cancel(self) -> None:
        """Never call the function from now on."""
        with self._lock:
            self._canceled = True


class _Link:
    """A connection of a replica, and the connection to the database to which it is forwarded.

    `trigger`: the trigger that fires at the next answer; None if there is none.
    """

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.in_transaction = False
        self.trigger: MessageTrigger | None = None

    def close(self, *, abruptly: bool = False) -> None:
        for each in (self.client, self.server):
            close(each, abruptly=abruptly)


def close(connection: socket.socket, *, abruptly: bool = False) -> None:
    """Close a connection, also if a thread waits for its bytes. `abruptly`: with a TCP reset."""
    with suppress(OSError):
        if abruptly:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


class DatabaseProxy:
    """A TCP proxy. `target`: returns the port to which it forwards new connections."""

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._open: dict[Direction, threading.Event] = {"up": threading.Event(), "down": threading.Event()}
        for is_open in self._open.values():
            is_open.set()
        self.refuses = False
        self.trigger: MessageTrigger | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    # --- for disruptions ---

    def hold(self, *directions: Direction) -> None:
        """Hold bytes in these directions until `release`."""
        for direction in directions:
            self._open[direction].clear()

    def release(self) -> None:
        """Forward all bytes again, first those that were held."""
        for is_open in self._open.values():
            is_open.set()

    def cut(self) -> None:
        """Reset all connections."""
        for link in self._all():
            link.close(abruptly=True)

    def half_open(self) -> None:
        """Close all connections to the database. The replica does not notice."""
        for link in self._all():
            close(link.server)

    def close(self) -> None:
        """Close the port and all connections."""
        self._listener.close()
        self.release()
        self.cut()

    def _all(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    # --- connections ---

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                close(client, abruptly=True)
                continue
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((HOST, self._target()), timeout=3)
        except OSError:
            close(client, abruptly=True)
            return
        server.settimeout(None)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        with self._lock:
            self._links.add(link)
        threading.Thread(target=self._forward_answers, args=(link,), daemon=True).start()
        self._forward_messages(link)
        link.close()
        with self._lock:
            self._links.discard(link)

    def _forward_messages(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.client.recv(65536):
                self._open["up"].wait()
                if self._is_forwarded(link, data):
                    with suppress(OSError):  # a half-open connection: the replica must not notice
                        link.server.sendall(data)

    def _forward_answers(self, link: _Link) -> None:
        ended = False
        with suppress(OSError):
            while data := link.server.recv(65536):
                self._open["down"].wait()
                if link.trigger is not None:
                    link.trigger.fire()
                    break
                link.client.sendall(data)
            else:
                ended = link.server.fileno() != -1  # closed by the database, not by a disruption
        if ended or link.trigger is not None:
            link.close(abruptly=link.trigger is not None)

    def _is_forwarded(self, link: _Link, data: bytes) -> bool:
        """Return whether the database gets a message. Fire the trigger if it is due."""
        in_transaction = link.in_transaction or BEGIN in data
        link.in_transaction = in_transaction and COMMIT not in data
        trigger = self.trigger
        if trigger is None or not trigger.is_due(data, in_transaction=in_transaction):
            return True
        self.trigger = None
        if trigger.at_answer:
            link.trigger = trigger
        else:
            trigger.fire()
        return trigger.forward


class Flapping:
    """Resets the connections of a proxy every few tenths of a second, and refuses new ones half of the time."""

    def __init__(self, proxy: DatabaseProxy, rng: random.Random) -> None:
        self._ended = threading.Event()
        self._wire, self._rng = proxy, random.Random(rng.random())
        self._thread = threading.Thread(target=self._flap, daemon=True)
        self._thread.start()

    def _flap(self) -> None:
        while not self._ended.wait(self._rng.uniform(0.1, 0.6)):
            self._wire.refuses = not self._wire.refuses
            self._wire.cut()

    def stop(self) -> None:
        """Stop, and accept connections again."""
        self._ended.set()
        self._thread.join()
        self._wire.refuses = False
