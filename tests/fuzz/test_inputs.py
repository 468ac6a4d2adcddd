"""Hostile input of people, files and scrapers: config, web config, selectors, headers, and an edited state."""

import base64
import sqlite3
from contextlib import closing

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.commands.explain.selector import SelectorError, parse
from exporter.config import ConfigError, loads
from exporter.model import Result
from exporter.sources import KNOWN_NAMES
from exporter.state.opening import open_state
from exporter.web.auth import Credentials, credentials_of
from exporter.web.config import load_web
from exporter.web.negotiation import wants_gzip, wants_openmetrics
from tests.core.ledger_harness import BASELINE, LedgerHarness, ended
from tests.fuzz.fuzz_size import FUZZ_CASES
from tests.fuzz.hostile_values import TEXTS, VALUES, WORST_VALUES, paths_in, remove_value, replace_value

EXAMPLES = settings(max_examples=max(100, FUZZ_CASES))
BOMBS = {
    "open": "a: " + "[" * 100_000,
    "closed": "a: " + "[" * 2000 + "]" * 2000,
    "maps": "".join(f"{' ' * depth}a:\n" for depth in range(1500)),
    "aliases": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    "number": "metrics: {max_series: " + "9" * 4000 + "}",
    "digits": "metrics: {max_series: " + "9" * 5000 + "}",
    "infinite": "metrics: {run_buckets: [1e400, .nan, .inf]}",
    "date": "state: {retention: 9999-99-99}",
    "code": "state: !!python/object/apply:os.system [x]",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_yaml_bomb_in_a_config_is_an_error(bomb):
    with pytest.raises(ConfigError):
        loads(BOMBS[bomb] + "\nsources: []", {}, KNOWN_NAMES)


def test_a_number_of_series_too_large_for_a_gauge_is_an_error():
    with pytest.raises(ConfigError) as error:
        loads("metrics: {max_series: " + "9" * 400 + "}", {}, KNOWN_NAMES)
    assert "metrics.max_series" in str(error.value)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_yaml_bomb_in_a_web_config_is_an_error(bomb, tmp_path):
    file = tmp_path / "web.yml"
    file.write_text(BOMBS[bomb])
    with pytest.raises(ConfigError):
        load_web(file)


@pytest.mark.parametrize("pattern", ["(" * 5000, "a{99999999999999999999}", "(?P<a>", "[", "\\", "(?i", "a**", "\\x"])
def test_an_invalid_pattern_is_refused_in_config_and_selector(pattern):
    with pytest.raises(SelectorError):
        parse(f"jobrun_runs_total{{job_name=~`{pattern}`}}")
    block = {"name": "a", "type": "workato", "base_url": "https://example.com", "auth": {"api_token": "t"}}
    with pytest.raises(ConfigError):
        loads(msgspec.json.encode({"sources": [{**block, "jobs": {"include": [pattern]}}]}).decode(), {}, KNOWN_NAMES)


@EXAMPLES
@given(st.text() | st.from_regex(r"(\w+/\*?|\w+)(;\s*q=[-0-9.einfa]+)?(,\s*\w+(;q=.{1,4})?)*"))
def test_no_accept_header_breaks_a_scrape(header):
    assert wants_openmetrics(header) in {True, False}
    assert wants_gzip(header) in {True, False}


def encoded(value):
    return b"Basic " + base64.b64encode(value)


@EXAMPLES
@given(st.binary() | st.binary().map(lambda value: b"Basic " + value) | st.binary().map(encoded))
def test_any_authorization_header_is_valid_or_ignored(header):
    claim = credentials_of({"headers": [(b"authorization", header)]})
    assert claim is None or isinstance(claim, Credentials)


@pytest.fixture
def state(tmp_path):
    """Return the path of a state with some of everything."""
    harness = LedgerHarness(tmp_path / "state.db")
    harness.read()
    harness.read(
        ended("a", BASELINE + 70, result=Result.FAILURE, error_type="Boom"),
        ended("b", BASELINE + 80),
        checkpoints={"n": "1"},
    )
    harness.close()
    return tmp_path / "state.db"


@pytest.mark.parametrize("table", ["sources", "jobs", "exporter"])
def test_an_edited_record_is_readable_or_the_state_is_set_aside(state, table):
    with closing(sqlite3.connect(state)) as db:
        true = db.execute(f"SELECT record FROM {table}").fetchone()[0]  # noqa: S608  # one of three names
    document = msgspec.json.decode(true)
    values = VALUES if FUZZ_CASES else (*WORST_VALUES[:14], b'"x"', b"-1", TEXTS[0])
    edited = [replace_value(document, path, raw) for path in paths_in(document) for raw in values]
    edited += [remove_value(document, path) for path in paths_in(document)]
    for record in [b"", b"{", b"null", b"[]", b"\xff", *edited]:
        assert usable(state, table, record) in {"", "corrupt"}, record[:1000]


@pytest.mark.parametrize("column", ["result", "state", "mark", "steps", "earlier", "start", "job", "source"])
@pytest.mark.parametrize("value", ["x", b"\xff", -1, 99, 9e99, "[", '["x"]', "{}"])
def test_an_edited_row_is_readable_or_the_state_is_set_aside(state, column, value):
    with closing(sqlite3.connect(state)) as db, db:
        db.execute(f"UPDATE runs SET mark = 0, {column} = ?", (value,))  # noqa: S608  # one of these names
    assert opened(state) in {"", "corrupt"}


def usable(state, table, record):
    """Put a record in a state; return how a ledger opens it, and restore everything."""
    before = state.read_bytes()
    with closing(sqlite3.connect(state)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute(f"UPDATE {table} SET record = ?", (record,))  # noqa: S608  # one of three names
    try:
        return opened(state)
    finally:
        for file in state.parent.iterdir():
            file.unlink()
        state.write_bytes(before)


def opened(state):
    """Return "" or the reason of a cold start."""
    found = open_state(state, lambda: BASELINE)
    assert found.store is not None
    found.store.close()
    if found.cold_start:
        assert found.kept is not None
        assert found.kept.exists()
    return found.cold_start
