"""The command `simulate`: one simulated vendor alone, until it is told to stop."""

import signal
from collections.abc import Callable

import yaml

from exporter.signals import Signals
from exporter.simulators import SIMULATORS


def serve(  # noqa: PLR0913  # an address, a world, and two ends to test it by
    vendor: str,
    host: str,
    port: int,
    *,
    speed: float = 1.0,
    seed: int = 0,
    output: Callable[[str], None] = print,
    until: Callable[[], object] | None = None,
) -> None:
    """Serves a vendor's demo world and says how to read it; blocks until SIGTERM or SIGINT, or as long as `until` does.

    Raises KeyError for an unknown vendor and OSError if the address cannot be had. Outside the main thread no signal is
    heard: there `until` must be given.
    """
    wait = Signals(signal.SIGTERM, signal.SIGINT).wait if until is None else until
    with SIMULATORS[vendor].demo(speed=speed, seed=seed, host=host, port=port) as simulator:
        output(f"# {vendor} simulated on {simulator.url}; the truth is at {simulator.url}/-/truth")
        output(yaml.safe_dump({"sources": [simulator.source_config(vendor)]}, sort_keys=False))
        wait()
