"""A service manager's side of sd_notify(3): a datagram socket and the received messages."""

import socket
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self


class Supervisor:
    """Listens on a path, or in the abstract namespace if no folder is given."""

    def __init__(self, folder: Path | None = None) -> None:
        name = f"jobrun-{uuid.uuid4().hex[:12]}"
        self.address = f"@{name}" if folder is None else str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}" if folder is None else self.address)

    def next(self, seconds: float = 90.0) -> dict[str, str]:
        """Return the next message. Raise TimeoutError if none arrives in time."""
        self._socket.settimeout(seconds)
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().split("\n"))

    def until(self, name: str, seconds: float = 90.0) -> list[dict[str, str]]:
        """Return all messages up to the first with this name."""
        messages = [self.next(seconds)]
        while name not in messages[-1]:
            messages.append(self.next(seconds))
        return messages

    def heard(self) -> list[dict[str, str]]:
        """Return all messages that were not read yet."""
        messages = []
        try:
            while True:
                messages.append(self.next(0.001))
        except TimeoutError:
            return messages

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
