"""The command `simulate`: one simulated vendor alone, until it is told to stop."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

import yaml

from exporter.simulators import SIMULATORS


def serve(  # noqa: PLR0913  # an address, a world, and two ends to test it by
    vendor: str,
    host: str,
    port: int,
    *,
    speed: float = 1.0,
    seed: int = 0,
    output: Callable[[str], None] = print,
    stop: threading.Event | None = None,
) -> None:
    """Serves a vendor's demo world and says how to read it; blocks until SIGTERM, SIGINT, or the event.

    Raises KeyError for an unknown vendor and OSError if the address cannot be had. Signals are only heard in the main
    thread; elsewhere the event is the only end.
    """
    stopped = threading.Event() if stop is None else stop
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _setting(stopped))
    with SIMULATORS[vendor].demo(speed=speed, seed=seed, host=host, port=port) as simulator:
        output(f"# {vendor} simulated on {simulator.url}; the truth is at {simulator.url}/-/truth")
        output(yaml.safe_dump({"sources": [simulator.source_config(vendor)]}, sort_keys=False))
        stopped.wait()


def _setting(event: threading.Event) -> Callable[[int, FrameType | None], None]:
    def handle(_number: int, _frame: FrameType | None) -> None:
        event.set()

    return handle
