import httpx
import pytest

from exporter.client.signin import BearerAuth
from exporter.config import ConfigError, loads
from exporter.errors import AuthError
from exporter.sources import KNOWN_NAMES
from exporter.sources.workato.settings import WorkatoSettings
from exporter.sources.workato.source import TYPE

BASE = "name: w, type: workato, base_url: 'https://app.eu.workato.com', auth: {api_token: hidden}"


def settings_of(keys: str) -> WorkatoSettings:
    (settings,) = loads(f"sources: [{{{BASE}, {keys}}}]", {}, KNOWN_NAMES).sources
    assert isinstance(settings, WorkatoSettings)
    return settings


def faults_of(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loads(text, {}, KNOWN_NAMES)
    return str(caught.value)


@pytest.mark.parametrize(("mode", "requests"), [("embedded", 600.0), ("developer", 36.0)])
def test_the_budget_is_a_part_of_the_limit_of_the_mode(mode, requests):
    assert settings_of(f"mode: {mode}").requests_per_minute == requests
    assert settings_of(f"mode: {mode}, requests_per_minute: 7").requests_per_minute == 7


def test_some_defaults_differ_from_other_vendors():
    settings = settings_of("mode: embedded")
    assert (settings.timeout, settings.steps, settings.sweep) == (45.0, "failed", None)


def test_steps_may_be_an_unquoted_off():
    assert settings_of("mode: embedded, steps: off").steps == "off"


@pytest.mark.parametrize(
    ("text", "disruption"),
    [
        (f"sources: [{{{BASE}}}]", "sources[0].mode: is required"),
        (f"sources: [{{{BASE}, mode: partner}}]", "sources[0].mode: must be 'embedded' or 'developer'"),
        (
            "sources: [{name: w, type: workato, mode: embedded, auth: {api_token: hidden}}]",
            "sources[0].base_url: is required",
        ),
        (
            "sources: [{name: w, type: workato, mode: embedded, base_url: 'https://x', auth: {}}]",
            "sources[0].auth.api_token: is required (or api_token_file)",
        ),
        (
            f"sources: [{{{BASE.replace('.com', '.com/api')}, mode: embedded}}]",
            "sources[0].base_url: must not end with the API's path /api: the exporter appends it",
        ),
        (f"sources: [{{{BASE}, mode: embedded, sweep: {{}}}}]", "sources[0].sweep: this type of source has no sweep"),
    ],
)
def test_a_problem_names_its_place(text, disruption):
    assert disruption in faults_of(text)


def test_a_link_contains_only_the_recipe():
    settings = settings_of("mode: embedded, run_url: 'https://x/recipes/{job_id}/jobs/{run_id}'")
    assert settings.link(run_id="j-1", job_id="7/28904") == "https://x/recipes/28904/jobs/j-1"
    assert settings.link(run_id="j-1", job_id="28904") == "https://x/recipes/28904/jobs/j-1"


def test_sources_of_one_token_share_a_budget_and_the_token_is_not_shown():
    first, second = (TYPE.access(settings_of(f"mode: {mode}")) for mode in ("embedded", "developer"))
    assert first.credential == second.credential
    assert first.root == "https://app.eu.workato.com/api"
    assert "hidden" not in repr(first) + first.credential + TYPE.identity(settings_of("mode: embedded"))


def test_the_token_is_read_again_for_each_request():
    tokens = iter(["first", "second\n"])
    auth = BearerAuth(lambda: next(tokens))
    sent = [next(auth.auth_flow(httpx.Request("GET", "https://x"))).headers["Authorization"] for _ in range(2)]
    assert sent == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize("token", ["", "a\nb"])
def test_an_invalid_token_is_an_auth_error(token):
    with pytest.raises(AuthError):
        next(BearerAuth(lambda: token).auth_flow(httpx.Request("GET", "https://x")))
