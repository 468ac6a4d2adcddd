import pytest

from tests.core.ledger_harness import Book


@pytest.fixture
def book(tmp_path):
    book = Book(tmp_path / "state.db")
    yield book
    book.close()
