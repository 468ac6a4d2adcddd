from pathlib import Path

import pytest
import yaml

from exporter.config import ConfigError, loads
from exporter.config.source import Sweep
from exporter.sources import KNOWN_NAMES, SOURCES

ROOT = Path(__file__).parents[3]
LEAST = {"name": "s", "type": "strait", "auth": {"api_key": "strait_hidden"}}


def source_of(**changes):
    return loads(yaml.safe_dump({"sources": [{**LEAST, **changes}]}), {}, KNOWN_NAMES).sources[0]


def test_the_defaults_are_those_of_the_docs():
    source = source_of()
    assert source.base_url == "https://api.strait.dev"
    assert source.requests_per_minute == 50
    assert source.sweep == Sweep()
    assert SOURCES["strait"].access(source).root == "https://api.strait.dev/v1"


def test_the_documented_example_is_valid(tmp_path):
    text = (ROOT / "docs/sources/strait.md").read_text()
    (example,) = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    key = tmp_path / "key"
    key.write_text("strait_hidden")
    config = loads(example.replace("/run/secrets/strait_api_key", str(key)), {}, KNOWN_NAMES)
    assert [source.type for source in config.sources] == ["strait"]


@pytest.mark.parametrize(
    ("changes", "disruption"),
    [
        ({"base_url": "https://api.strait.dev/v1"}, "base_url"),
        ({"auth": {}}, "api_key"),
        ({"auth": {"api_token": "x"}}, "api_token"),
        ({"project_id": "p"}, "project_id"),
    ],
)
def test_problems_are_reported(changes, disruption):
    with pytest.raises(ConfigError, match=disruption):
        source_of(**changes)


def test_an_idle_poll_fits_the_default_budget():
    assert SOURCES["strait"].poll_requests * 60 / source_of().poll_interval < source_of().requests_per_minute


def test_no_text_about_the_source_contains_the_key():
    source = source_of()
    access = SOURCES["strait"].access(source)
    assert "hidden" not in f"{source!r} {access.credential} {SOURCES['strait'].identity(source)} {access.auth!r}"
