"""The command `state copy`: copies a state between a file and PostgreSQL."""

import re
from collections.abc import Mapping
from typing import TextIO

from exporter.commands.table import table
from exporter.errors import StateError
from exporter.state.copying import copy_state

VARIABLE = re.compile(r"\$\{(\w+)\}")

HEADINGS = ("SOURCE", "JOBS", "RUNS", "ACTIVE", "COMPLETED")


def copy(source: str, target: str, environ: Mapping[str, str], out: TextIO) -> int:
    """Copy a state and print its totals. Return the exit code. After a StateError, nothing is copied."""
    totals = copy_state(_with_variables("--from", source, environ), _with_variables("--to", target, environ))
    rows = [
        (name, str(total.jobs), str(total.runs), str(total.active), f"{total.counted.get('jobrun_runs_total', 0):.0f}")
        for name, total in totals.items()
    ]
    print(*table([HEADINGS, *rows]), sep="\n", file=out)
    print("copied and verified; change `state` in the config before the daemon starts again", file=out)
    return 0


def _with_variables(flag: str, text: str, environ: Mapping[str, str]) -> str:
    # Every user of a machine can read the arguments of processes, so a password comes from a variable.
    if unset := [name for name in VARIABLE.findall(text) if name not in environ]:
        raise StateError(f"{flag}: the environment variable {unset[0]} is not set")
    return VARIABLE.sub(lambda found: environ[found[1]], text)
