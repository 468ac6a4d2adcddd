"""The heartbeat, and notifications to systemd: ready, reloading, stopping, alive.

The protocol is sd_notify(3): lines `NAME=value` in a datagram to the socket in `NOTIFY_SOCKET`. If the variable is not
set, nothing is sent.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping

import structlog

SEND_TIMEOUT = 1.0
"""Maximum seconds to wait until the manager receives a message."""

START_EXTENSION = 60.0
"""Seconds by which each sign of life extends the time for the start. Reading a long past takes time."""

LONGEST_PAUSE = 15.0
"""Maximum seconds between two messages that the daemon is alive."""

TICK = 0.5
"""Seconds between two heartbeats."""

STUCK = 60.0
"""Seconds without a heartbeat after which the daemon reports that it is unhealthy."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Manager:
    """The service manager's socket.

    Args:
        environ: `NOTIFY_SOCKET`; `WATCHDOG_USEC` and `WATCHDOG_PID`, as systemd sets them.
        pid: Process ID of this process.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog = _watchdog(environ, pid)
        """Seconds after which a silent daemon is killed; None if it is not watched."""

    def tell(self, **values: str | int) -> bool:
        """Send one message. Return False if the manager did not receive it. Without a manager, send nothing."""
        if not self._address:
            return True
        message = "\n".join(f"{name}={_CONTROL.sub(' ', str(value))}" for name, value in values.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(SEND_TIMEOUT)
                sender.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


def _address(text: str) -> str:
    """Return a socket's address for Python: a path, or a name in the abstract namespace; "" if it is neither."""
    return f"\0{text[1:]}" if text.startswith("@") else text if text.startswith("/") else ""


def _watchdog(environ: Mapping[str, str], pid: int) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):  # meant for another process
        return None
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) > 0 else None


class Supervision:
    """Decides which messages to send, and when. Only the heartbeat calls `beat`; any thread may call other methods.

    Args:
        manager: Receives the messages.
        monotonic: CLOCK_MONOTONIC in seconds. The manager uses the same clock.
    """

    def __init__(self, manager: Manager, monotonic: Callable[[], float]) -> None:
        self._manager = manager
        self._monotonic = monotonic
        self._pause = min(LONGEST_PAUSE, (manager.watchdog or LONGEST_PAUSE) / 3)
        self._ready = False
        self._status = ""
        self._alive: float | None = None

    def beat(self, *, healthy: bool, ready: bool, status: str) -> None:
        """Send changes, and a sign of life if one is due and the daemon is healthy.

        The end of the start is reported once. `status`: a sentence for people.
        """
        if ready and not self._ready:
            self._ready = True  # set before the message is sent, because the manager may request a reload at once
            self._ready = self._manager.tell(READY=1)
        if status != self._status and self._manager.tell(STATUS=status):
            self._status = status
        now = self._monotonic()
        due = self._alive is None or now - self._alive >= self._pause
        if healthy and due and self._sign_of_life():
            self._alive = now

    def _sign_of_life(self) -> bool:
        if not self._ready:  # the watchdog starts when the start is complete
            return self._manager.tell(EXTEND_TIMEOUT_USEC=round(START_EXTENSION * 1e6))
        return self._manager.watchdog is None or self._manager.tell(WATCHDOG=1)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Notify the manager of a reload, but not during the start, when the end of a reload would mean ready."""
        announced = self._ready
        if announced:
            self._manager.tell(RELOADING=1, MONOTONIC_USEC=round(self._monotonic() * 1e6))
        try:
            yield
        finally:
            if announced:  # if the manager does not receive it, the heartbeat sends it again
                self._ready = self._manager.tell(READY=1)

    def stopping(self) -> None:
        """Notify the manager that the daemon stops."""
        self._manager.tell(STOPPING=1, STATUS="stopping")


class Heartbeat:
    """Runs tasks twice per second in a thread. An error of one task does not stop the others."""

    def __init__(self, tasks: Collection[Callable[[], None]], monotonic: Callable[[], float]) -> None:
        self._tasks = tasks
        self._monotonic = monotonic
        self._latest = monotonic()
        self._ended = threading.Event()
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._beat, name="heart", daemon=True)
        self.start, self.stop = self._thread.start, self._ended.set

    def age(self) -> float:
        """Return the seconds since the latest heartbeat."""
        return self._monotonic() - self._latest

    def is_alive(self) -> bool:
        """Return whether there was a heartbeat recently and the thread is running."""
        return self.age() <= STUCK and self._thread.is_alive()

    def _beat(self) -> None:
        while not self._ended.wait(TICK):
            for task in self._tasks:
                self.guard(task)
            self._latest = self._monotonic()

    def guard(self, task: Callable[[], None]) -> None:
        """Run a task. Log its error once until the task succeeds again."""
        name = task.__name__
        try:
            task()
        except Exception as error:  # noqa: BLE001  # an error of one task must not stop the others
            if name not in self._failing:
                structlog.get_logger().error("heartbeat task failed", task=name, exc_info=error)
            self._failing.add(name)
        else:
            self._failing.discard(name)
