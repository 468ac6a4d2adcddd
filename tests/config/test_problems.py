"""Every mistake is reported with the path of its key: one file per mistake, its problems in comments at its top."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.config import KnownNames, load, loads
from exporter.config.problems import ConfigError, path_of
from exporter.sources.snowplow.settings import SnowplowSettings

KNOWN_NAMES = KnownNames(sources={"snowplow": SnowplowSettings}, families=["jobrun_runs_total"])
FILES = sorted((Path(__file__).parent / "testdata").glob("*.yaml"))


def problems_of(text, environ=None):
    with pytest.raises(ConfigError) as caught:
        loads(text, environ or {}, KNOWN_NAMES)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_problem_is_reported_with_its_path(file):
    text = file.read_text()
    expected = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]

    assert expected, "the file does not say which problems it has"
    assert problems_of(text) == expected


def test_a_missing_file_is_a_problem_without_a_path():
    with pytest.raises(ConfigError) as caught:
        load(Path("/nowhere/config.yaml"), {}, KNOWN_NAMES)

    assert str(caught.value) == "/nowhere/config.yaml cannot be read: No such file or directory"


def test_a_file_of_another_encoding_is_reported_without_its_text(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(b"sources: \xff\xfe")

    with pytest.raises(ConfigError) as caught:
        load(file, {}, KNOWN_NAMES)

    assert str(caught.value) == f"{file} is not UTF-8 text"


KEYS = ("sources", "auth", "sweep", "jobs", "status_map", "match", "state", "metrics", "lookback", "name", "type")
"""Keys of all kinds of sections; none is right in a source, in an objective and at the top."""

PLACES = (
    "name: '${V}'",
    "type: '${V}'",
    "base_url: '${V}'",
    "poll_interval: '${V}'",
    "steps: '${V}'",
    "jobs: {include: ['${V}']}",
    "status_map: {A: '${V}'}",
    "run_url: '${V}'",
    "requests_per_minute: '${V}'",
    "proxy_url: '${V}'",
    "tls: {ca_file: '${V}'}",
    "auth: '${V}'",
    "auth: {api_key_file: '${V}'}",
)


@pytest.mark.parametrize("place", PLACES)
def test_no_problem_repeats_a_value_of_the_environment(place):
    hidden = "zq{x[7Hidden\x01Word"

    shown = "\n".join(problems_of("sources:\n  - {" + place + "}", {"V": hidden}))

    # A file's path is no secret, and a person needs it.
    if "_file" not in place:
        assert "Hidden" not in shown
    assert "sources[0]" in shown


def test_a_syntax_error_does_not_repeat_an_unquoted_secret():
    for text in ("a: *HiddenWord", "a: !HiddenWord b", "a: !Hidden!Word b", "a: &HiddenWord b\nc: &HiddenWord d\ne: ["):
        assert "HiddenWord" not in "".join(problems_of(text))


@given(st.text(max_size=40))
def test_any_text_is_a_config_or_has_problems(text):
    assert problems_of(text)


@settings(max_examples=20)  # each example reads eleven configs
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "1h", "${", "0 3 * * *"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        max_leaves=8,
    )
)
def test_no_value_at_any_place_breaks_the_loader(value):
    source = {"name": "a", "type": "snowplow", "organization_id": "o", "auth": {"api_key": "k"}}
    for key in KEYS:
        document = {"sources": [{**source, key: value}], key: value, "objectives": [{key: value}]}
        assert problems_of(json.dumps(document))  # JSON is YAML


def test_paths_do_not_contain_names_of_unions():
    assert path_of(("sources", 0, "<snowplow>", "auth", "<v3>", "api_key")) == "sources[0].auth.api_key"
