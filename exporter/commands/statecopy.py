"""The command `state copy`: copies a state between a file and PostgreSQL."""

import re
from collections.abc import Mapping
from typing import TextIO

from exporter.state.copying import CopyError, copy_state

VARIABLE = re.compile(r"\$\{(\w+)\}")

HEADINGS = ("SOURCE", "JOBS", "RUNS", "ACTIVE", "COMPLETED")


def copy(source: str, target: str, environ: Mapping[str, str], out: TextIO) -> int:
    """Copy a state and print its totals. Return the exit code. If it raises StateError, nothing was copied."""
    totals = copy_state(_expanded("--from", source, environ), _expanded("--to", target, environ))
    rows = [
        (name, str(of.jobs), str(of.runs), str(of.active), f"{of.counted.get('jobrun_runs_total', 0):.0f}")
        for name, of in totals.items()
    ]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    for row in (HEADINGS, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), file=out)
    print("copied and verified; change `state` in the config before the daemon starts again", file=out)
    return 0


def _expanded(flag: str, text: str, environ: Mapping[str, str]) -> str:
    # All users of a machine can read arguments, so a password must come from a variable.
    if unset := [name for name in VARIABLE.findall(text) if name not in environ]:
        raise CopyError(f"{flag}: the environment variable {unset[0]} is not set")
    return VARIABLE.sub(lambda found: environ[found[1]], text)
