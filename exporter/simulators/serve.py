"""The command `simulate`: one simulated vendor, until a signal ends it."""

import signal
from collections.abc import Callable

import yaml

from exporter.signals import Signals
from exporter.simulators import SIMULATORS


def serve(  # noqa: PLR0913  # an address, a world, and two parameters for tests
    vendor: str,
    host: str,
    port: int,
    *,
    speed: float = 1.0,
    seed: int = 0,
    output: Callable[[str], None] = print,
    until: Callable[[], object] | None = None,
) -> None:
    """Serve a vendor's demo world and print how to read it, until SIGTERM or SIGINT, or until `until` returns.

    Raises KeyError for an unknown vendor, and OSError if the address cannot be used. Outside of the main thread,
    `until` is required, because signals do not arrive there.
    """
    wait = Signals(signal.SIGTERM, signal.SIGINT).wait if until is None else until
    with SIMULATORS[vendor].demo(speed=speed, seed=seed, host=host, port=port) as simulator:
        output(f"# {vendor} simulated on {simulator.url}; the truth is at {simulator.url}/-/truth")
        output(yaml.safe_dump({"sources": [simulator.source_config(vendor)]}, sort_keys=False))
        wait()
