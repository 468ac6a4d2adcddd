"""The benchmarks run. No test depends on what they measure."""

import math

import pytest

from benchmarks import cardinality, client, cpu, explain, growth, memory, poll, render, requests, scrape, state
from benchmarks.measure import Figure, exponent, percentile, table_row


@pytest.mark.parametrize(
    "figures",
    [
        lambda: poll.measure(20),
        lambda: state.measure(20),
        lambda: client.measure(3),
        lambda: render.measure(3),
        lambda: scrape.at_rest(200, 4),
        lambda: scrape.during_polls(200, 0.1),
        lambda: scrape.against_library(200),
        lambda: memory.measure(100),
        lambda: cardinality.measure(2),
        lambda: explain.measure(20),
        lambda: requests.measure(2),
        lambda: growth.measure(50, memory=False),
        lambda: cpu.measure(3, sources=2),
    ],
    ids=[
        "poll",
        "state",
        "client",
        "render",
        "scrape",
        "busy",
        "library",
        "memory",
        "cardinality",
        "explain",
        "requests",
        "growth",
        "cpu",
    ],
)
def test_every_benchmark_measures_something(figures):
    taken = list(figures())
    assert taken
    assert not any(math.isnan(figure.value) for figure in taken)


def test_the_exponent_is_that_of_the_power_law():
    sizes = [1, 2, 4, 8]
    assert exponent(sizes, [3 * size**2 for size in sizes]) == pytest.approx(2)
    assert exponent(sizes, [5.0] * 4) == pytest.approx(0)


def test_a_percentile_is_one_of_the_values_and_the_slowest_at_the_end():
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([3, 1, 2], 1.0) == 3


@pytest.mark.parametrize(("value", "at_least", "missed"), [(5, False, False), (6, False, True), (4, True, True)])
def test_a_missed_target_is_reported(value, at_least, missed):
    figure = Figure(group="poll", what="known", value=value, unit="ms", target=5, at_least=at_least, note="how")
    assert figure.missed is missed
    sign = "≥" if at_least else "≤"
    assert table_row(figure) == f"| poll | known | {value}.00 ms | {sign} 5{', **missed**' if missed else ''} | how |"
