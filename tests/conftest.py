from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import postgres

# A busy machine needs longer for an example than the default deadline: timings are not tests.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """Start a PostgreSQL that all tests share."""
    with postgres.server() as server:
        yield server
