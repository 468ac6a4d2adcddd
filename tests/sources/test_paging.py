import pytest

from exporter.errors import SchemaError
from exporter.sources.rest import PageGuard


def test_pages_with_new_rows_are_accepted():
    guard = PageGuard("GET /things")
    guard.check(["a", "b"], "b")
    guard.check(["b", "c"], "c")
    guard.check([], "d")
    guard.check([], "e")


def test_a_repeated_page_is_refused_by_name():
    guard = PageGuard("GET /things")
    guard.check(["a", "b"])
    with pytest.raises(SchemaError, match="GET /things: the list does not end: page 2 shows earlier rows again"):
        guard.check(["b", "a"])


def test_an_alternating_cursor_is_refused():
    guard = PageGuard("GET /things")
    guard.check(["a"], "t")
    guard.check(["b"], "t+1")
    with pytest.raises(SchemaError, match="page 3 leads back to an earlier page"):
        guard.check(["c"], "t")


def test_an_endless_list_of_pages_is_refused():
    guard = PageGuard("GET /things", max_pages=10)
    for number in range(9):
        guard.check([number])
    with pytest.raises(SchemaError, match="more than 10 pages"):
        guard.check([10])
