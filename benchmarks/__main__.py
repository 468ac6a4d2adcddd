"""Runs all benchmarks and prints the table of docs/performance.md.

Usage: python -m benchmarks [NAME …]
"""

import sys
from datetime import UTC, datetime

from benchmarks import cardinality, carry, client, explain, growth, memory, poll, quiet, render, scrape, state
from benchmarks.measure import machine, show

ALL = {
    "poll": poll,
    "state": state,
    "client": client,
    "render": render,
    "scrape": scrape,
    "memory": memory,
    "cardinality": cardinality,
    "explain": explain,
    "quiet": quiet,
    "growth": growth,
    "carry": carry,
}


def main(names):
    print(f"{datetime.now(UTC):%Y-%m-%d}. {machine()}\n")
    figures = show(figure for name in names or ALL for figure in ALL[name].measure())
    missed = [figure.what for figure in figures if figure.missed]
    print(f"\n{len(figures)} figures; targets missed: {', '.join(missed) or 'none'}")
    print(f"\nAfterwards: {machine()}")


if __name__ == "__main__":
    main(sys.argv[1:])
