import base64
import json
import threading
import traceback
from urllib.parse import parse_qs

import httpx
import pytest

from exporter.client.budget import Budget
from exporter.client.client import Client, Environment, RequestRecorder
from exporter.client.signin import make_token, parse_claims
from exporter.config.secret import Secret
from exporter.errors import AuthError, NetworkError, RateLimitedError, RedirectError, ServerStatusError
from exporter.sources.snowplow.settings import PasswordGrant
from exporter.sources.snowplow.signin import TOKEN_PASSWORD, TOKEN_V2, TOKEN_V3, api_key_auth, password_auth

ROOT = "https://console.example.com/api/msc/v1"
NOW = 1_700_000_000.0
DAY = 86400.0
SECRETS = ("key-s3cr3t", "id-s3cr3t", "word-s3cr3t", "client-s3cr3t")


def jwt(**claims):
    parts = ({"alg": "none"}, claims)
    head, payload = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return f"{head}.{payload}.c2lnbmF0dXJl"


class Console(httpx.BaseTransport):
    """A console that issues tokens and refuses those in `refused`; `sign_in` replaces its responses to sign-ins."""

    def __init__(self):
        self.now = NOW
        self.signed_in, self.requested, self.refused = [], [], set()
        self.life = DAY
        self.sign_in = self.token_answer

    def token(self):
        return jwt(exp=self.now + self.life, iat=self.now, number=len(self.signed_in))

    def token_answer(self):
        return httpx.Response(200, json={"accessToken": self.token()})

    def handle_request(self, request):
        if request.url.path.endswith("/token"):
            self.signed_in.append(request)
            request.read()
            return self.sign_in()
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self.requested.append(token)
        return httpx.Response(401 if token in self.refused or "*" in self.refused else 200, content=b"[]")


class Ledger(RequestRecorder):
    def __init__(self):
        self.requests, self.expiries = [], []

    def count_request(self, endpoint, code, seconds):  # noqa: ARG002  # required by the interface
        self.requests.append((endpoint, code))

    def set_credential_expiry(self, timestamp):
        self.expiries.append(timestamp)


@pytest.fixture
def console():
    return Console()


@pytest.fixture
def meter():
    return Ledger()


def key_auth(console, key=lambda: SECRETS[0], key_id=SECRETS[1], organization="org/1"):
    return api_key_auth(ROOT, organization, api_key=key, api_key_id=key_id, clock=lambda: console.now)


def sign_in_by_password(console):
    password, client_secret = Secret(SECRETS[2]), Secret(SECRETS[3])
    grant = PasswordGrant(username="me@example.com", password=password, client_id="client", client_secret=client_secret)
    return password_auth(grant, clock=lambda: console.now)


@pytest.fixture
def make(console, meter):
    def make(auth):
        return Client(
            ROOT,
            auth,
            Budget(60000.0, monotonic=lambda: console.now, sleep=lambda _: None),
            recorder=meter,
            environment=Environment(
                clock=lambda: console.now, monotonic=lambda: console.now, sleep=lambda _: None, random=lambda: 0.0
            ),
            transport=console,
        )

    return make


def ask(client):
    return client.get("/runs", endpoint="/runs")


def test_a_key_of_version_3_signs_in_with_two_headers_and_its_token_is_used_again(make, console, meter):
    client = make(key_auth(console))
    assert [ask(client), ask(client)] == [b"[]", b"[]"]
    (request,) = console.signed_in
    assert str(request.url) == ROOT + "/organizations/org%2F1/credentials/v3/token"
    assert (request.headers["X-API-Key-ID"], request.headers["X-API-Key"]) == (SECRETS[1], SECRETS[0])
    assert meter.requests == [(TOKEN_V3, "200"), ("/runs", "200"), ("/runs", "200")]
    assert len(set(console.requested)) == 1


def test_a_key_of_version_2_signs_in_with_one_header(make, console, meter):
    ask(make(key_auth(console, key_id=None)))
    (request,) = console.signed_in
    assert str(request.url).endswith("/credentials/v2/token")
    assert "X-API-Key-ID" not in request.headers
    assert meter.requests[0] == (TOKEN_V2, "200")


def test_key_headers_go_to_the_sign_in_alone(make, console):
    seen = []
    answer = console.handle_request

    def noted(request):
        seen.append(request)
        return answer(request)

    console.handle_request = noted
    ask(make(key_auth(console)))
    assert ["X-API-Key" in request.headers for request in seen] == [True, False]


def test_a_password_signs_in_with_a_form(make, console, meter):
    console.sign_in = lambda: httpx.Response(200, json={"access_token": "opaque", "expires_in": 600})
    ask(make(sign_in_by_password(console)))
    (request,) = console.signed_in
    assert str(request.url) == "https://id.snowplowanalytics.com/oauth/token"
    assert parse_qs(request.content.decode()) == {
        "grant_type": ["password"],
        "username": ["me@example.com"],
        "password": [SECRETS[2]],
        "audience": ["https://snowplowanalytics.com/api/"],
        "client_id": ["client"],
        "client_secret": [SECRETS[3]],
    }
    assert meter.requests[0] == (TOKEN_PASSWORD, "200")
    assert meter.expiries == [NOW + 600]


@pytest.mark.parametrize(("life", "left"), [(DAY, 300.0), (1000.0, 100.0)])
def test_a_token_is_renewed_when_the_lesser_of_five_minutes_and_a_tenth_is_left(make, console, meter, life, left):
    console.life = life
    client = make(key_auth(console))
    ask(client)
    console.now = NOW + life - left - 1
    ask(client)
    assert len(console.signed_in) == 1
    console.now = NOW + life - left
    ask(client)
    assert len(console.signed_in) == 2
    assert meter.expiries == [NOW + life, console.now + life]


def test_a_token_without_a_valid_expiry_lasts_a_day_and_its_expiry_is_unknown(make, console, meter):
    console.sign_in = lambda: httpx.Response(200, json={"accessToken": "opaque"})
    client = make(key_auth(console))
    ask(client)
    console.now = NOW + DAY - 301
    ask(client)
    assert (len(console.signed_in), meter.expiries) == (1, [None])
    console.now = NOW + DAY - 300
    ask(client)
    assert len(console.signed_in) == 2


def test_the_expiry_of_a_token_is_compared_with_the_servers_clock(make, console, meter):
    token = jwt(exp=NOW - 10 * DAY, iat=NOW - 11 * DAY)
    console.sign_in = lambda: httpx.Response(
        200, json={"accessToken": token}, headers={"Date": "Fri, 03 Nov 2023 22:13:20 GMT"}
    )
    client = make(key_auth(console))
    ask(client)
    console.now = NOW + DAY - 301
    ask(client)
    assert (len(console.signed_in), meter.expiries) == (1, [NOW + DAY])


@pytest.mark.parametrize("date", ["Fri, 03 Nov 2023 22:13:20 GMT", "Mon, 13 Nov 2034 22:13:20 GMT"])
@pytest.mark.parametrize("issued", [{}, {"iat": NOW}])
def test_one_wrong_date_of_a_sign_in_does_not_move_the_expiry_of_its_token(make, console, meter, date, issued):
    token = jwt(exp=NOW + DAY, **issued)
    console.sign_in = lambda: httpx.Response(200, json={"accessToken": token}, headers={"Date": date})
    ask(make(key_auth(console)))
    assert meter.expiries == [NOW + DAY]


def test_a_seemingly_expired_token_does_not_cost_a_sign_in_per_request(make, console):
    token = jwt(exp=NOW - DAY, iat=NOW - 2 * DAY)
    console.sign_in = lambda: httpx.Response(200, json={"accessToken": token})
    client = make(key_auth(console))
    for _ in range(3):
        ask(client)
    assert len(console.signed_in) == 1


def test_a_refused_token_is_renewed_once_and_the_request_repeated(make, console):
    client = make(key_auth(console))
    ask(client)
    console.refused.add(console.requested[0])
    assert ask(client) == b"[]"
    assert len(console.signed_in) == 2


def test_a_token_refused_twice_is_an_auth_error(make, console, meter):
    console.refused.add("*")
    with pytest.raises(AuthError):
        ask(make(key_auth(console)))
    assert meter.requests == [(TOKEN_V3, "200"), ("/runs", "401"), (TOKEN_V3, "200"), ("/runs", "401")]


@pytest.mark.parametrize(("status", "words"), [(401, "wrong"), (403, "permission"), (404, "unknown organization")])
def test_a_refused_sign_in_is_an_auth_error_that_says_why_and_is_not_repeated(make, console, meter, status, words):
    console.sign_in = lambda: httpx.Response(status, json={"message": "private"})
    with pytest.raises(AuthError, match=words):
        ask(make(key_auth(console)))
    assert meter.requests == [(TOKEN_V3, str(status))]


@pytest.mark.parametrize(("status", "error"), [(503, ServerStatusError), (429, RateLimitedError), (302, RedirectError)])
def test_a_temporary_sign_in_error_is_retried_like_any_request(make, console, meter, status, error):
    console.sign_in = lambda: httpx.Response(status, headers={"Location": "https://evil.example.com/token"})
    with pytest.raises(error, match="token"):
        ask(make(key_auth(console)))
    assert meter.requests == [(TOKEN_V3, str(status))] * (1 if status == 302 else 3)
    assert console.requested == []


def test_a_sign_in_that_fails_once_is_retried(make, console):
    answers = [httpx.Response(503), httpx.Response(200, json={"accessToken": "opaque"})]
    console.sign_in = lambda: answers.pop(0)
    assert ask(make(key_auth(console))) == b"[]"


def test_a_broken_connection_during_a_sign_in_does_not_block_the_next(make, console):
    def broken():
        raise httpx.ConnectError("refused")

    console.sign_in = broken
    client = make(key_auth(console))
    with pytest.raises(NetworkError):
        ask(client)
    console.sign_in = console.token_answer
    assert ask(client) == b"[]"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"not JSON",
        b"{}",
        b'{"accessToken": null}',
        b'{"accessToken": 7}',
        b'{"accessToken": ""}',
        b'{"accessToken": "a\\nb"}',
        b'{"accessToken": "\xc3\xa9"}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_sign_in_without_a_token_is_an_auth_error(make, console, body):
    console.sign_in = lambda: httpx.Response(200, content=body)
    with pytest.raises(AuthError):
        ask(make(key_auth(console)))


def test_secrets_are_read_again_at_each_sign_in(make, console):
    keys = ["first\n", "second"]
    client = make(key_auth(console, key=lambda: keys.pop(0)))
    ask(client)
    console.now += DAY
    ask(client)
    assert [request.headers["X-API-Key"] for request in console.signed_in] == ["first", "second"]


@pytest.mark.parametrize("secret", ["", "  \n", "two\nlines"])
def test_an_impossible_secret_is_an_auth_error(make, console, secret):
    with pytest.raises(AuthError) as caught:
        ask(make(key_auth(console, key=lambda: secret)))
    assert "two" not in str(caught.value)
    assert console.signed_in == []


def test_an_unreadable_secret_is_an_auth_error(make, console, tmp_path):
    with pytest.raises(AuthError, match="cannot be read"):
        ask(make(key_auth(console, key=Secret(file=tmp_path / "missing").reveal)))
    assert console.signed_in == []


def test_a_secret_outside_ascii_is_sent_unchanged(make, console):
    ask(make(key_auth(console, key=lambda: "clé")))
    assert ("x-api-key", "clé".encode()) in [
        (name.decode().lower(), value) for name, value in console.signed_in[0].headers.raw
    ]


def test_neither_representations_nor_errors_show_a_secret(make, console):
    token = console.token()
    console.refused.add("*")
    texts = [repr(make_token(token, None, NOW, 0.0))]
    for auth in (key_auth(console), sign_in_by_password(console)):
        with pytest.raises(AuthError) as caught:
            ask(make(auth))
        texts += [repr(auth), repr(vars(auth)), *traceback.format_exception(caught.value)]
    for secret in (*SECRETS, token):
        assert secret not in "".join(texts)


def test_threads_that_start_together_sign_in_once(make, console):
    all_started = threading.Event()

    def slow_sign_in():
        all_started.wait(10)
        return console.token_answer()

    console.sign_in = slow_sign_in
    client = make(key_auth(console))
    threads = [threading.Thread(target=ask, args=(client,)) for _ in range(12)]
    for thread in threads:
        thread.start()
    all_started.set()
    for thread in threads:
        thread.join(10)
    assert (len(console.signed_in), len(console.requested)) == (1, 12)


@pytest.mark.parametrize(
    "token",
    ["", "a.b", "a.b.c", "a.!.c", "....", "a." + "A" * 100_000 + ".c", jwt(), jwt(exp="soon"), jwt(exp=-1), "a.é.c"],
    ids=lambda token: token[:12],
)
def test_an_unparsable_token_has_no_claims(token):
    assert parse_claims(token) is None


@pytest.mark.parametrize("expires_in", [None, "600", -5, 0, float("inf"), float("nan"), [], True])
def test_unusual_token_lifetimes_never_cause_an_immediate_renewal(expires_in):
    assert make_token("opaque", expires_in, NOW, 0.0).renew >= NOW + 30
