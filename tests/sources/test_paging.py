import pytest

from exporter.errors import SchemaError
from exporter.sources.paging import PageGuard


def test_pages_that_each_show_something_new_are_fine():
    guard = PageGuard("GET /things")
    guard.check(["a", "b"], "b")
    guard.check(["b", "c"], "c")
    guard.check([], "d")
    guard.check([], "e")


def test_the_same_page_again_is_refused_by_name():
    guard = PageGuard("GET /things")
    guard.check(["a", "b"])
    with pytest.raises(SchemaError, match="GET /things: the list does not end: page 2 shows earlier rows again"):
        guard.check(["b", "a"])


def test_a_cursor_that_goes_to_and_fro_is_refused():
    guard = PageGuard("GET /things")
    guard.check(["a"], "t")
    guard.check(["b"], "t+1")
    with pytest.raises(SchemaError, match="page 3 leads back to an earlier page"):
        guard.check(["c"], "t")


def test_a_list_of_pages_without_end_is_refused_in_the_end():
    guard = PageGuard("GET /things", max_pages=10)
    for number in range(9):
        guard.check([number])
    with pytest.raises(SchemaError, match="more than 10 pages"):
        guard.check([10])
