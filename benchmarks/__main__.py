"""Runs all benchmarks and prints the table of docs/performance.md.

Usage: python -m benchmarks [NAME …]
"""

import sys
from datetime import UTC, datetime

from benchmarks import cardinality, client, cpu, explain, growth, memory, poll, render, requests, scrape, state
from benchmarks.measure import describe_machine, print_table

ALL = {
    "poll": poll,
    "state": state,
    "client": client,
    "render": render,
    "scrape": scrape,
    "memory": memory,
    "cardinality": cardinality,
    "explain": explain,
    "requests": requests,
    "growth": growth,
    "cpu": cpu,
}


def main(names):
    print(f"{datetime.now(UTC):%Y-%m-%d}. {describe_machine()}\n")
    figures = print_table(figure for name in names or ALL for figure in ALL[name].measure())
    missed = [figure.what for figure in figures if figure.missed]
    print(f"\n{len(figures)} figures; targets missed: {', '.join(missed) or 'none'}")
    print(f"\nAfterwards: {describe_machine()}")


if __name__ == "__main__":
    main(sys.argv[1:])
