import json
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from structlog.testing import capture_logs

from exporter.commands.config_warnings import config_warnings
from exporter.commands.run import load_with_warnings, log_unused_proxies
from exporter.config import Config, ConfigError, load, loads, schema, secrets
from exporter.config.secret import Secret
from exporter.config.values import RESERVED_LABELS
from exporter.counting.records import Filter
from exporter.counting.rules import included
from exporter.metrics.families import FAMILIES, REQUEST_FAMILIES
from exporter.model import Result, State
from exporter.sources import KNOWN_NAMES, SOURCES
from exporter.sources.snowplow.settings import ApiKeyPair, PasswordGrant, SnowplowApiKey, SnowplowSettings

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
ENVIRON = {
    "SNOWPLOW_ORGANIZATION_ID": "org",
    "SNOWPLOW_API_KEY_ID": "id",
    "SNOWPLOW_API_KEY": "hidden word",
    "WORKATO_API_TOKEN": "hidden token",
    "NORTHFLANK_API_TOKEN": "hidden token",
    "STRAIT_API_KEY": "hidden key",
}
LEAST = """sources:
  - {name: snowplow-prod, type: snowplow, organization_id: org, auth: {api_key_id: id, api_key: hidden word}}
  - {name: embedded, type: workato, mode: embedded, base_url: https://www.workato.com, auth: {api_token: hidden token}}
  - {name: northflank, type: northflank, auth: {api_token: hidden token}}
  - {name: strait, type: strait, auth: {api_key: hidden key}}
"""


def config_of(source="", rest="", environ=None) -> Config:
    text = "sources:\n  - {name: a, type: snowplow, organization_id: o, auth: {api_key: k}" + source + "}\n" + rest
    return loads(text, environ or {}, KNOWN_NAMES)


def source_of(keys) -> SnowplowSettings:
    (source,) = config_of(", " + keys).sources
    assert isinstance(source, SnowplowSettings)
    return source


def test_the_example_has_no_problem_and_no_warning():
    config = load(EXAMPLE, ENVIRON, KNOWN_NAMES)

    assert [source.name for source in config.sources] == ["snowplow-prod", "embedded", "northflank", "strait"]
    assert list(config_warnings(config, now=0.0)) == []


def test_the_example_shows_the_defaults():
    example = load(EXAMPLE, ENVIRON, KNOWN_NAMES)
    least = loads(LEAST, {}, KNOWN_NAMES)

    assert example.sources == least.sources
    assert (example.state, example.web, example.metrics) == (least.state, least.web, least.metrics)


def keys_of(json_schema, root) -> set[str]:
    """Return all keys of a schema, including those of its sections and of all types of source."""
    found = set(json_schema.get("properties", {}))
    for part in [
        *json_schema.get("properties", {}).values(),
        *json_schema.get("oneOf", []),
        *json_schema.get("anyOf", []),
    ]:
        found |= keys_of(part, root)
    if "items" in json_schema:
        found |= keys_of(json_schema["items"], root)
    if "$ref" in json_schema:
        found |= keys_of(root["$defs"][json_schema["$ref"].rpartition("/")[2]], root)
    return found


def test_the_example_shows_every_key():
    text = EXAMPLE.read_text()
    json_schema = schema(KNOWN_NAMES)

    assert [key for key in keys_of(json_schema, json_schema) if key not in text] == []


def test_the_example_matches_the_schema():
    validator = jsonschema.Draft202012Validator(schema(KNOWN_NAMES))

    assert list(validator.iter_errors(yaml.safe_load(EXAMPLE.read_text()))) == []


def test_the_schema_is_valid_and_describes_every_key():
    json_schema = json.loads(json.dumps(schema(KNOWN_NAMES)))
    jsonschema.Draft202012Validator.check_schema(json_schema)
    parts = [json_schema, *json_schema["$defs"].values()]

    lacking = [
        f"{part['title']}.{key}"
        for part in parts
        for key, shown in part.get("properties", {}).items()
        if "description" not in shown and "$ref" not in shown
    ]
    assert lacking == []


@pytest.mark.parametrize(
    "source",
    [
        {"name": "a", "type": "snowplow", "organization_id": "o", "auth": {"api_key": "k", "api_key_file": "f"}},
        {"name": "a", "type": "snowplow", "organization_id": "o", "auth": {}},
        {"name": "a", "type": "snowplow", "organization_id": "o", "auth": {"api_key": "k"}, "poll": "1m"},
        {"name": "a", "type": "snowplow", "organization_id": "o", "auth": {"api_key": "k"}, "overlap": 60},
    ],
)
def test_the_schema_refuses_every_config_that_the_loader_refuses(source):
    validator = jsonschema.Draft202012Validator(schema(KNOWN_NAMES))

    assert not validator.is_valid({"sources": [source]})


def test_durations_are_strings_in_the_schema():
    source = schema(KNOWN_NAMES)["$defs"]["SnowplowSettings"]["properties"]

    assert source["overlap"]["type"] == "string"
    assert source["overlap"]["default"] == "1h"
    assert source["sweep"]["default"] == {"interval": "1h", "window": "1d"}


@pytest.mark.parametrize(
    ("auth", "kind"),
    [
        ("{api_key: k}", SnowplowApiKey),
        ("{api_key_id: i, api_key: k}", ApiKeyPair),
        ("{username: u, password: p, client_id: c, client_secret: s}", PasswordGrant),
    ],
)
def test_the_keys_of_auth_decide_the_sign_in_method(auth, kind):
    text = f"sources: [{{name: a, type: snowplow, organization_id: o, auth: {auth}}}]"
    source: Any = loads(text, {}, KNOWN_NAMES).sources[0]

    assert type(source.auth) is kind


def test_a_variable_is_replaced_after_the_yaml_is_parsed():
    value = """a', b: [{"#x"} # &y\n- z"""

    assert config_of(rest="state: {path: '${P}'}", environ={"P": value}).state.path == value


def test_a_replaced_value_is_not_replaced_again():
    config = config_of(rest="state: {path: '${P}-$$-$${P}-$'}", environ={"P": "${Q}$$"})

    assert config.state.path == "${Q}$$-$-${P}-$"


def test_a_number_may_come_from_the_environment():
    assert config_of(", requests_per_minute: '${R}'", environ={"R": "12.5"}).sources[0].requests_per_minute == 12.5


def test_a_section_whose_lines_are_all_commented_out_has_its_defaults():
    assert config_of(rest="objectives:\nstate:\nweb:\n").state.retention == 30 * 86400


@pytest.mark.parametrize(("word", "meaning"), [("off", "off"), ("'off'", "off"), ("failed", "failed"), ("all", "all")])
def test_steps_may_be_an_unquoted_off(word, meaning):
    assert source_of(f"steps: {word}").steps == meaning


@pytest.mark.parametrize(("word", "meaning"), [("off", "off"), ("on", "on"), ("auto", "auto")])
def test_step_histograms_may_be_an_unquoted_switch(word, meaning):
    assert config_of(rest=f"metrics: {{step_histograms: {word}}}").metrics.step_histograms == meaning


@pytest.mark.parametrize("word", ["off", "'off'", "false", "null"])
def test_off_turns_sweeps_off_as_null_does(word):
    assert source_of(f"sweep: {word}").sweep is None


@pytest.mark.parametrize("word", ["off", "'off'", "false", "0s"])
def test_off_is_a_duration_of_0s_for_what_0s_turns_off(word):
    metrics = config_of(rest=f"metrics: {{zero_first: {word}, startup_hold: {word}}}").metrics
    assert (metrics.zero_first, metrics.startup_hold) == (0.0, 0.0)


@pytest.mark.parametrize("key", ["sweep: on", "sweep: 0", "overlap: off", "steps: on", "poll_interval: off"])
def test_switches_are_refused_for_other_keys(key):
    with pytest.raises(ConfigError, match=rf"sources\[0\]\.{key.partition(':')[0]}: "):
        source_of(key)


@pytest.mark.parametrize("key", ["sweep: off", "sweep: 'off'", "steps: off", "steps: 'off'"])
def test_the_schema_accepts_off_as_yaml_parses_it(key):
    text = f"sources: [{{name: a, type: snowplow, organization_id: o, auth: {{api_key: k}}, {key}}}]"
    metrics = "\nmetrics: {zero_first: off, startup_hold: 'off', step_histograms: off}"

    loads(text + metrics, {}, KNOWN_NAMES)
    assert jsonschema.Draft202012Validator(schema(KNOWN_NAMES)).is_valid(yaml.safe_load(text + metrics))


def test_the_schema_refuses_true_where_only_off_is_a_word():
    source = {"name": "a", "type": "snowplow", "organization_id": "o", "auth": {"api_key": "k"}}
    validator = jsonschema.Draft202012Validator(schema(KNOWN_NAMES))

    assert not validator.is_valid({"sources": [source | {"steps": True}]})
    assert not validator.is_valid({"sources": [source | {"sweep": True}]})


def test_a_job_pattern_must_match_the_whole_name():
    jobs = source_of("jobs: {include: [daily, 'hourly-.*'], exclude: ['.*-test']}").jobs
    patterns = Filter(0.0, jobs.include, jobs.exclude)
    names = ("daily", "daily-2", "hourly-1", "hourly-test", "an hourly-1")
    wanted = [name for name in names if included(patterns, name)]
    assert wanted == ["daily", "hourly-1"]


def test_status_words_are_case_insensitive():
    source = source_of("status_map: {Aborted: cancellation, QUEUED: pending}")

    assert source.status_map == {"aborted": Result.CANCELLATION, "queued": State.PENDING}


def test_values_in_a_link_are_url_encoded():
    source = source_of("run_url: 'https://example.com/{project}/{job_name}?run={run_id}'")

    assert source.link(run_id="a/b", job_name="x y", project="p&q") == "https://example.com/p%26q/x%20y?run=a%2Fb"
    assert source_of("run_url: ''").link(run_id="a") == ""


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://Console.Example.com/", "https://console.example.com"),
        ("HTTPS://console.example.com:8443/Prefix/", "https://console.example.com:8443/Prefix"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_equal_addresses_are_normalized_to_equal_texts(url, kept):
    assert source_of(f"base_url: '{url}'").base_url == kept


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "127.9.9.9", "[::1]:8080", "a.localhost"])
def test_http_on_this_machine_is_no_warning(host):
    assert list(config_warnings(config_of(f", base_url: 'http://{host}'"), now=0.0)) == []


@pytest.mark.parametrize("host", ["console.example.com", "10.0.0.1", "localhost.example.com", "[2001:db8::1]"])
def test_http_beyond_this_machine_is_a_warning(host):
    (warning,) = config_warnings(config_of(f", base_url: 'http://{host}'"), now=0.0)

    assert str(warning) == (
        "sources[0].base_url: http without TLS: the credential and the responses can be read on the network"
    )


def test_an_interval_too_short_for_the_budget_is_a_warning():
    poll_requests = SOURCES["snowplow"].poll_requests
    (warning,) = config_warnings(config_of(", poll_interval: 10s, requests_per_minute: 4"), now=0.0)

    assert poll_requests == 1
    assert list(config_warnings(config_of(", poll_interval: 10s, requests_per_minute: 6"), now=0.0)) == []
    assert str(warning) == (
        "sources[0].poll_interval: 1 requests per poll at 4 requests_per_minute take longer: polls will come every 15s"
    )


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ("2026-12-20T23:00:00Z", None),
        ("2026-12-21T00:40:00Z", "the credential expires in 6d23h: replace it"),
        ("2026-12-27T23:59:00Z", "the credential expires in 1m: replace it"),
        ("2026-12-30T01:00:00Z", "the credential expired 2d1h ago: replace it"),
    ],
)
def test_a_credential_that_has_expired_or_soon_will_is_a_warning(now, message):
    config = config_of(", credential_expires: 2026-12-28")

    found = [str(warning) for warning in config_warnings(config, now=datetime.fromisoformat(now).timestamp())]
    assert found == ([] if message is None else [f"sources[0].credential_expires: {message}"])


OBJECTIVES = """objectives:
  - {match: {source: a, job_name: "daily-.*"}, team: first}
  - {match: {project: "prod|test"}, team: second}
  - {match: {source: b}, team: third}
"""


@pytest.mark.parametrize(
    ("source", "project", "job_name", "team"),
    [
        ("a", "prod", "daily-1", "first"),
        ("a", "prod", "my daily-1", "second"),
        ("aa", "prod", "daily-1", "second"),
        ("b", "production", "daily-1", "third"),
        ("c", "", "x", None),
    ],
)
def test_the_first_objective_that_matches_wins(source, project, job_name, team):
    objective = config_of(rest=OBJECTIVES).objective_for(source, project, job_name)

    assert (objective and objective.team) == team


def test_every_label_of_our_metrics_is_reserved():
    ours = {label for family in (*FAMILIES, *REQUEST_FAMILIES) for label in family.all_labels}

    assert ours | {"job", "instance", "le", "severity", "alertname"} <= RESERVED_LABELS


def test_no_metric_has_a_label_that_targets_often_have():
    ours = {label for family in (*FAMILIES, *REQUEST_FAMILIES) for label in family.all_labels}
    theirs = {"env", "environment", "service", "stage", "type"}

    assert ours & {"job", "instance", *theirs} == set()
    for label in theirs:
        with pytest.raises(ConfigError, match="is often a label of scrape targets"):
            config_of(rest=f"objectives: [{{labels: {{{label}: test}}}}]")


def test_an_objective_without_match_applies_to_all_jobs():
    config = config_of(rest="objectives: [{freshness: 1d}]")

    objective = config.objective_for("x", "", "a\nb")
    assert objective is not None
    assert objective.freshness == 86400


def test_a_printed_config_never_shows_a_secret():
    config = load(EXAMPLE, ENVIRON, KNOWN_NAMES)

    assert "hidden" not in repr(config) + str(config) + str(config.model_dump()) + config.model_dump_json()
    assert "hidden" not in repr(config_of(", proxy_url: 'http://u:hidden@proxy'"))


def test_settings_can_be_created_without_a_file():
    auth = ApiKeyPair(api_key_id="i", api_key=Secret("k"))

    assert SnowplowSettings(name="a", type="snowplow", organization_id="o", auth=auth).auth is auth


def test_all_secrets_are_listed_including_a_proxy_password():
    listed = {secret.reveal() for secret in secrets(config_of(", proxy_url: 'http://u:p%40w@proxy'"))}

    assert {"k", "p%40w", "p@w"} <= listed


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("postgresql://u:p[x]%40@h/db", "p[x]@"),
        ("postgresql://u:p?#x@h/db", "p?#x"),
        ("postgresql://u:pw@[::1]:1,[::2]:2/db", "pw"),
        ("postgresql://u@h/db?sslmode=require&password=a@b", "a@b"),
        ("postgresql://u@h/db?sslpassword=key&passfile=x", "key"),
    ],
)
def test_each_password_that_the_driver_reads_from_the_url_of_the_state_is_listed(url, password):
    config = config_of(rest=f"state: {{url: '{url}'}}")

    assert password in {secret.reveal() for secret in secrets(config)}


@pytest.mark.parametrize(("mark", "code"), [("#", "%23"), ("?", "%3F"), ("/", "%2F")])
def test_a_character_to_encode_in_a_proxy_password_is_named(mark, code):
    with pytest.raises(ConfigError, match=f"proxy_url: has a \\{mark} in its user or password: write it as {code}"):
        config_of(f", proxy_url: 'http://u:p{mark}w@proxy:3128'")


def test_proxies_of_the_environment_that_are_not_used_are_mentioned_by_name_only():
    environ = {"HTTPS_PROXY": "http://u:hidden@proxy", "no_proxy": "x", "http_proxy": ""}
    with capture_logs() as lines:
        log_unused_proxies(config_of(), environ)
        log_unused_proxies(config_of(", proxy_url: 'http://proxy'"), environ)
        log_unused_proxies(config_of(), {})
    assert [(line["variables"], line["sources"]) for line in lines] == [("HTTPS_PROXY", "a")]


def test_the_daemon_logs_the_warnings_of_its_config_at_each_start_and_reload(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(LEAST.replace("{name: strait,", "{name: strait, base_url: 'http://strait.example.com',"))
    for _ in range(2):
        with capture_logs() as lines:
            load_with_warnings(file, {})
        assert [(line["log_level"], line["key"], line["problem"].partition(":")[0]) for line in lines] == [
            ("warning", "sources[3].base_url", "http without TLS")
        ]


@pytest.mark.parametrize("vendor", SOURCES)
def test_all_vendors_but_workato_fetch_all_steps_by_default(vendor):
    assert SOURCES[vendor].settings.model_fields["steps"].default == ("failed" if vendor == "workato" else "all")


def test_a_config_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        config_of().state.path = "other.db"
