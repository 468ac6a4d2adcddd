"""Values that are valid but most likely wrong, such as stray blanks from variables and files."""

import pytest

from exporter.commands.config_warnings import config_warnings
from exporter.config import ConfigError, loads
from exporter.sources import KNOWN_NAMES

NORTHFLANK = "sources: [{name: %s, type: northflank, team_id: '%s', auth: {%s}}]"


def config_of(name="a", team="t", auth="api_token: k", **environ):
    return loads(NORTHFLANK % (name, team, auth), environ, KNOWN_NAMES)


def file_of(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    return f"api_token_file: {file}"


def token(config):
    return config.sources[0].auth.api_token.reveal()


def warned(config):
    return [str(warning) for warning in config_warnings(config, now=0.0)]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_marks_and_trailing_line_breaks_are_not_part_of_a_value(tmp_path, mark, ending):
    from_environment = config_of("'${NAME}'", "${TEAM}", "api_token: '${KEY}'", **dict.fromkeys(
        ("NAME", "TEAM", "KEY"), f"{mark}word{ending}"
    ))  # fmt: skip
    source = from_environment.sources[0]
    assert (source.name, source.team_id, token(from_environment)) == ("word", "word", "word")
    assert token(config_of(auth=file_of(tmp_path, f"{mark}word{ending}".encode()))) == "word"


@pytest.mark.parametrize("given", [" t1 ", "t1\n", "\ufefft1"])
def test_blanks_around_an_id_are_not_part_of_it(given):
    assert config_of(team="${TEAM}", TEAM=given).sources[0].team_id == "t1"


@pytest.mark.parametrize(
    ("place", "words"),
    [("name", "must not be empty"), ("team", "must not be empty"), ("auth", "is empty")],
)
@pytest.mark.parametrize("value", ["", "\n", "\ufeff"])
def test_an_empty_variable_is_named(place, words, value):
    given = {"name": "'${EMPTY}'", "team": "${EMPTY}", "auth": "api_token: '${EMPTY}'"}
    with pytest.raises(ConfigError) as raised:
        config_of(**{place: given[place]}, EMPTY=value)
    (problem,) = raised.value.problems
    assert words in problem.message
    assert problem.message.endswith(": the environment variable EMPTY is empty")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'"secret word"\n', "begins and ends with quotes, which are sent too: remove them"),
        (b"'secret word'", "begins and ends with quotes, which are sent too: remove them"),
        (b"API_TOKEN=secret\n", "looks like NAME=value: write the value alone"),
        (b"export TOKEN='secret'", "looks like NAME=value: write the value alone"),
        (b"Bearer secret", "begins like a header: write the secret alone"),
        (b"$API_TOKEN", "looks like a variable that is not replaced: write ${…} with its name"),
    ],
)  # fmt: skip
def test_a_suspicious_secret_causes_a_warning_that_never_shows_it(tmp_path, content, words):
    config = config_of(auth=file_of(tmp_path, content))
    assert warned(config) == [f"sources[0].auth.api_token_file: {words}"]
    assert "secret word" not in str(warned(config))


@pytest.mark.parametrize("content", [b"c2VjcmV0Cg==", b"A=", b"abc$DEF", b"x", b'"', b"sk_live=abc", b"ABCDEF=="])
def test_an_ordinary_secret_causes_no_warning(tmp_path, content):
    assert warned(config_of(auth=file_of(tmp_path, content))) == []


@pytest.mark.parametrize(
    ("text", "written"),
    [("$TEAM", "${TEAM}"), ("$team", "${team}"), ("a-$TEAM_ID/b", "${TEAM_ID}")],
)
def test_a_variable_without_braces_causes_a_warning(text, written):
    assert warned(config_of(team=text)) == [f"sources[0].team_id: ${written[2:-1]} is not replaced: write {written}"]


def test_a_variable_without_braces_as_a_secret_causes_a_warning():
    assert warned(config_of(auth="api_token: $NORTHFLANK_TOKEN")) == [
        "sources[0].auth.api_token: looks like a variable that is not replaced: write ${…} with its name"
    ]


def test_a_filter_that_can_select_no_job_causes_a_warning():
    source = "sources: [{name: a, type: northflank, auth: {api_token: k}, jobs: {include: []}}]\n"
    objectives = "objectives: [{match: {source: a|b}, freshness: 1d}, {match: {source: A}, freshness: 1d}]"
    assert warned(loads(source + objectives, {}, KNOWN_NAMES)) == [
        'sources[0].jobs.include: is empty: no job is watched; for all jobs write [".*"]',
        "objectives[1].match.source: matches none of the sources: a",
    ]


@pytest.mark.parametrize("word", ["Northflank", "northflnk", "nortflank"])
def test_a_misspelled_source_type_gets_a_suggestion(word):
    with pytest.raises(ConfigError, match="did you mean northflank"):
        loads((NORTHFLANK % ("a", "t", "api_token: k")).replace("northflank", word), {}, KNOWN_NAMES)
