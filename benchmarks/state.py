"""Cost of a large state: catching up many runs, the size of the file, and starting with it.

Usage: python -m benchmarks.state [RUNS]
"""

import subprocess
import sys

from benchmarks.measure import Figure, cost, print_table
from benchmarks.poll import reference_cost
from benchmarks.vendor import polled_sources
from exporter.sources.snowplow.source import EVENT_LIMIT

GROUP = "state"
BATCH_SIZE = EVENT_LIMIT + 1
START = """
import sys, time
from pathlib import Path
from exporter.ledger.ledger import Ledger
from exporter.state.opening import open_state
begun = time.process_time()
ledger = Ledger(lambda: open_state(Path(sys.argv[1]), time.time))
ledger.load()
print(time.process_time() - begun)
ledger.close()
"""


def measure(runs=100_000):
    batches = max(1, round(runs / BATCH_SIZE))
    size = min(BATCH_SIZE, runs)
    spent, costs = 0.0, []
    with polled_sources() as one:
        for _ in range(batches):
            one.pass_hour(size)
            costs.append(cost(one.poll))
            spent += reference_cost(one.api.body, times=1)
        assert one.counted() == batches * size
        one.ledger.close()
        file = one.path.stat().st_size
        started = min(start(one.path) for _ in range(3))
    many = f"{batches * size / 1e6:.2g} M runs"
    tenth = max(1, batches // 10)
    slower = sum(costs[-tenth:]) / sum(costs[:tenth])
    each = f"{sum(costs) / (batches * size) * 1e6:.1f} us per run; the last tenth takes {slower:.2f} x the first"
    yield Figure(
        group=GROUP,
        what=f"reading {many}: CPU as a multiple of a typed decode",
        value=sum(costs) / spent,
        target=15,
        note=each,
    )
    yield Figure(group=GROUP, what=f"file of {many}, per run", value=file / batches / size, unit="bytes")
    yield Figure(
        group=GROUP,
        what=f"start with {many}, CPU",
        value=started,
        unit="s",
        target=2.5,
        note="opening, checking and loading the state",
    )


def start(path):
    """Return the CPU seconds in which a new process opens a state."""
    done = subprocess.run([sys.executable, "-c", START, path], capture_output=True, text=True, check=True)  # noqa: S603  # ours
    return float(done.stdout)


if __name__ == "__main__":
    print_table(measure(*map(int, sys.argv[1:2])))
