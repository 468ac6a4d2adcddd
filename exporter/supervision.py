"""The heartbeat, and notifications to systemd.

Notifications are datagrams with lines `NAME=value` to the socket in the variable `NOTIFY_SOCKET`: see sd_notify(3).
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping

import structlog

SEND_TIMEOUT = 1.0
"""Maximum seconds to wait until systemd receives a notification."""

START_EXTENSION = 60.0
"""Seconds by which a notification extends systemd's timeout for the start, because the first polls may take long."""

MAX_ALIVE_INTERVAL = 15.0
"""Maximum seconds between two notifications that the daemon is alive."""

HEARTBEAT_INTERVAL = 0.5
"""Seconds between two heartbeats."""

MAX_HEARTBEAT_AGE = 60.0
"""Seconds without a heartbeat after which the daemon is unhealthy."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Manager:
    """The service manager: sends notifications to systemd, if it has started this process.

    Args:
        environ: `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, as systemd sets them.
        pid: Process ID of this process.
    """

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")  # a path, or a name in the abstract namespace
        self._address = re.sub("^@", "\0", address) if address.startswith(("/", "@")) else ""
        self.watchdog = _watchdog(environ, pid)
        """Seconds without a notification after which systemd kills this process; None if it never does."""

    def notify(self, **values: str | int) -> bool:
        """Send a notification. Return False if systemd did not receive it. Without systemd, do nothing."""
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


def _watchdog(environ: Mapping[str, str], pid: int) -> float | None:
    microseconds = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):  # the variables are for another process
        return None
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) > 0 else None


class Supervision:
    """Decides when to notify systemd. Only the heartbeat may call `beat`; any thread may call the other methods.

    Args:
        manager: Sends the notifications.
        monotonic: CLOCK_MONOTONIC in seconds. systemd uses the same clock.
    """

    def __init__(self, manager: Manager, monotonic: Callable[[], float]) -> None:
        self._manager = manager
        self._monotonic = monotonic
        self._alive_interval = min(MAX_ALIVE_INTERVAL, (manager.watchdog or MAX_ALIVE_INTERVAL) / 3)
        self._ready = False
        self._status = ""
        self._alive_sent: float | None = None

    def beat(self, *, healthy: bool, ready: bool, status: str) -> None:
        """Notify systemd of a new status, of readiness once `ready`, and of being alive as long as `healthy`."""
        if ready and not self._ready:
            self._ready = True  # set first, because systemd may request a reload at once
            self._ready = self._manager.notify(READY=1)
        if status != self._status and self._manager.notify(STATUS=status):
            self._status = status
        now = self._monotonic()
        is_due = self._alive_sent is None or now - self._alive_sent >= self._alive_interval
        if healthy and is_due and self._notify_alive():
            self._alive_sent = now

    def _notify_alive(self) -> bool:
        if not self._ready:  # systemd's watchdog begins after the start
            return self._manager.notify(EXTEND_TIMEOUT_USEC=round(START_EXTENSION * 1e6))
        return self._manager.watchdog is None or self._manager.notify(WATCHDOG=1)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Notify systemd of a reload."""
        # The end of a reload means that the daemon is ready, so reloads during the start are not announced.
        announced = self._ready
        if announced:
            self._manager.notify(RELOADING=1, MONOTONIC_USEC=round(self._monotonic() * 1e6))
        try:
            yield
        finally:
            if announced:  # if systemd does not receive it, the heartbeat sends it again
                self._ready = self._manager.notify(READY=1)

    def stopping(self) -> None:
        """Notify systemd that the daemon is stopping."""
        self._manager.notify(STOPPING=1, STATUS="stopping")


class Heartbeat:
    """Runs tasks twice per second in a thread. If one fails, the others still run."""

    def __init__(
        self, tasks: Collection[Callable[[], None]], monotonic: Callable[[], float], name: str = "heart"
    ) -> None:
        self._tasks = tasks
        self._monotonic = monotonic
        self._latest = monotonic()
        self._ended = threading.Event()
        self._failing: set[str] = set()
        self._thread = threading.Thread(target=self._beat, name=name, daemon=True)
        self.start, self.stop = self._thread.start, self._ended.set

    def age(self) -> float:
        """Return the seconds since the latest heartbeat."""
        return self._monotonic() - self._latest

    def is_alive(self) -> bool:
        """Return whether there was a heartbeat recently and the thread is running."""
        return self.age() <= MAX_HEARTBEAT_AGE and self._thread.is_alive()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_INTERVAL):
            for task in self._tasks:
                self.run_task(task)
            self._latest = self._monotonic()

    def run_task(self, task: Callable[[], None]) -> None:
        """Run a task. If it fails again and again, log only its first error."""
        name = task.__name__
        try:
            task()
        except Exception as error:  # noqa: BLE001  # the other tasks must still run
            if name not in self._failing:
                structlog.get_logger().error("heartbeat task failed", task=name, exc_info=error)
            self._failing.add(name)
        else:
            self._failing.discard(name)
