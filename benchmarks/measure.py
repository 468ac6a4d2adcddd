"""Timing and printing, shared by all benchmarks. Each figure has a reference."""

import math
import os
import platform
import resource
import sqlite3
import statistics
import time

import msgspec

REPEATS = 7


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table: a figure and its target, which is a maximum unless `at_least`."""

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
    """Return the CPU seconds (user and system) that an action takes in this process."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def elapsed(action):
    """Return the elapsed seconds of an action."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def least(make, times=REPEATS, by=cost):
    """Return the minimum cost of repeated actions, as the least disturbed; `make` returns a new action each time."""
    return min(by(make()) for _ in range(times))


def compared_with(make, yardstick, times=REPEATS, by=cost):
    """Return the cost of an action divided by that of a reference: the median of repeats, both measured alternately.

    So a machine whose speed changes affects both.
    """
    return middle([by(make()) / by(yardstick) for _ in range(times)])


def middle(seconds):
    return statistics.median(seconds)


def percentile(seconds, part):
    return sorted(seconds)[min(len(seconds) - 1, math.ceil(part * len(seconds)) - 1)]


def exponent(sizes, costs):
    """Return the exponent of the fitted power law: the slope of a line through the logarithms."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(each) for each in costs]).slope


def resident():
    """Return the resident memory of this process in bytes."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123  # not a file in one of our folders
        return int(statm.read().split()[1]) * resource.getpagesize()


def shown(figure):
    digits = 0 if figure.value >= 100 else 1 if figure.value >= 10 else 2
    return f"{figure.value:,.{digits}f}{' ' if figure.unit else ''}{figure.unit}"


def line(figure):
    sign = "≥" if figure.at_least else "≤"
    target = "" if figure.target is None else f"{sign} {figure.target:g}{', **missed**' if figure.missed else ''}"
    return f"| {figure.group} | {figure.what} | {shown(figure)} | {target} | {figure.note} |"


HEAD = "| of | what | measured | target | how |\n|---|---|---|---|---|"


def show(figures):
    """Print a table of figures, each as soon as it is measured, and return them."""
    print(HEAD, flush=True)
    taken = []
    for figure in figures:
        print(line(figure), flush=True)
        taken.append(figure)
    return taken


def machine():
    """Describe the machine in one line."""
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
