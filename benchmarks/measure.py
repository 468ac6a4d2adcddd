"""Functions of all benchmarks: they measure costs, compare them with a reference, and print a table."""

import math
import os
import platform
import sqlite3
import statistics
import time

import msgspec

REPEATS = 7


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. `target` is a maximum; with `at_least` it is a minimum."""

    group: str
    what: str
    value: float
    unit: str = ""
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def missed(self):
        if self.target is None:
            return False
        return self.value < self.target if self.at_least else self.value > self.target


def cost(action):
    """Return the CPU seconds (user and system) of this process for an action."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def elapsed(action):
    """Return the elapsed seconds of an action."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def minimum_cost(make, times=REPEATS, by=cost):
    """Return the minimum cost of several actions, because other load only adds cost. `make` returns the next action."""
    return min(by(make()) for _ in range(times))


def relative_cost(make, reference, times=REPEATS, by=cost):
    """Return the median of the cost of an action divided by the cost of a reference. `make` returns the next action."""
    # Both are measured alternately, so that a change of the machine's speed affects both.
    return statistics.median([by(make()) / by(reference) for _ in range(times)])


def percentile(seconds, part):
    return sorted(seconds)[min(len(seconds) - 1, math.ceil(part * len(seconds)) - 1)]


def exponent(sizes, costs):
    """Return the exponent of the fitted power law: the slope of a line through the logarithms."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(each) for each in costs]).slope


def format_value(figure):
    digits = 0 if figure.value >= 100 else 1 if figure.value >= 10 else 2
    return f"{figure.value:,.{digits}f}{' ' if figure.unit else ''}{figure.unit}"


def table_row(figure):
    sign = "≥" if figure.at_least else "≤"
    target = "" if figure.target is None else f"{sign} {figure.target:g}{', **missed**' if figure.missed else ''}"
    return f"| {figure.group} | {figure.what} | {format_value(figure)} | {target} | {figure.note} |"


HEAD = "| of | what | measured | target | how |\n|---|---|---|---|---|"


def print_table(figures):
    """Print a table of figures, each as soon as it is measured. Return the figures."""
    print(HEAD, flush=True)
    taken = []
    for figure in figures:
        print(table_row(figure), flush=True)
        taken.append(figure)
    return taken


def describe_machine():
    """Return the processor, versions and load of this machine in one line."""
    try:
        with open("/proc/cpuinfo") as info:  # noqa: PTH123  # a file of the kernel
            model = next(text.partition(":")[2].strip() for text in info if text.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}; load {load}"
    )
