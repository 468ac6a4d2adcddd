import gzip
import threading
import traceback
import zlib
from email.utils import formatdate
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from exporter.client.budget import Budget, Stopped
from exporter.client.client import Client, Environment, NetworkSettings, RequestRecorder
from exporter.errors import (
    AuthError,
    ClientStatusError,
    DecodeError,
    ForbiddenError,
    NetworkError,
    NotFoundError,
    RateLimitedError,
    RedirectError,
    SchemaError,
    ServerStatusError,
    TimedOutError,
)

ROOT = "https://api.example.com/api/v1"
PATH = "/things/7"
ENDPOINT = "/things/{id}"
SECRET = "s3cr3t-t0ken"


class Bearer(httpx.Auth):
    def auth_flow(self, request):
        request.headers["Authorization"] = f"Bearer {SECRET}"
        yield request


class Ledger(RequestRecorder):
    """A recorder that keeps everything."""

    def __init__(self):
        self.requests, self.retries, self.waits, self.said = [], 0, [], []

    def count_request(self, endpoint, code, seconds):
        self.requests.append((endpoint, code))
        assert seconds >= 0

    def count_retry(self):
        self.retries += 1

    def add_wait(self, seconds):
        self.waits.append(seconds)

    def set_limits(self, limit, remaining, reset):
        self.said.append((limit, remaining, reset))


class Api(httpx.BaseTransport):
    """Answers each request with the next response or exception, and then always with the last one."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def handle_request(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer


class Trickle(httpx.SyncByteStream):
    """A body in pieces, which calls a function after each piece."""

    def __init__(self, pieces, after=lambda: None):
        self.pieces, self.after, self.taken = pieces, after, 0

    def __iter__(self):
        for piece in self.pieces:
            yield piece
            self.taken += 1
            self.after()


@pytest.fixture
def meter():
    return Ledger()


@pytest.fixture
def make(moved, meter):
    def make(*answers, requests_per_minute=60.0, auth=None, timeout=30.0, body_limit=1000, chance=0.5, **options):
        client: Any = Client(
            ROOT,
            auth or Bearer(),
            Budget(requests_per_minute, monotonic=moved.monotonic, sleep=moved.sleep),
            recorder=meter,
            network=NetworkSettings(timeout=timeout, body_limit=body_limit),
            environment=Environment(
                clock=moved.clock, monotonic=moved.monotonic, sleep=moved.sleep, random=lambda: chance
            ),
            transport=Api(*answers),
            **options,
        )
        client.api = client._http._transport._inner
        return client

    return make


def fail(client, error, **arguments):
    with pytest.raises(error) as caught:
        client.get(PATH, endpoint=ENDPOINT, **arguments)
    assert type(caught.value) is error
    return caught.value


def test_a_request_returns_the_body(make, meter):
    client = make(httpx.Response(200, content=b"[]"))
    assert client.get(PATH, endpoint=ENDPOINT, params={"from": "x y"}) == b"[]"
    assert str(client.api.requests[0].url) == ROOT + PATH + "?from=x+y"
    assert meter.requests == [(ENDPOINT, "200")]


def http_date(seconds):
    return formatdate(1_700_000_000.0 + seconds, usegmt=True)


def dated(seconds, age=None):
    headers = {"Date": http_date(seconds), **({"Age": age} if age else {})}
    return httpx.Response(200, headers=headers)


DAY = 86400.0


@pytest.mark.parametrize("wrong", [DAY, -DAY, 400 * DAY, 3600.0, -30 * DAY])
def test_one_wrong_date_causes_a_second_request_and_changes_nothing(make, meter, wrong):
    client = make(dated(1000), dated(1000 + wrong), dated(1000))
    for _ in range(3):
        client.get(PATH, endpoint=ENDPOINT)
        assert client.skew == 0.0
    assert len(meter.requests) == 4


def test_two_equal_dates_show_that_our_clock_is_wrong(make, meter):
    client = make(dated(1000 + DAY))
    client.get(PATH, endpoint=ENDPOINT)
    assert client.skew == DAY
    assert len(meter.requests) == 2
    client.get(PATH, endpoint=ENDPOINT)
    assert len(meter.requests) == 3


def test_dates_that_differ_from_each_other_are_ignored(make):
    client = make(*(dated(1000 + days * DAY) for days in (1, -3, 30, 7)), dated(1000))
    for _ in range(3):
        client.get(PATH, endpoint=ENDPOINT)
    assert client.skew == 0.0


def test_the_age_of_a_cached_response_does_not_look_like_a_wrong_clock(make, meter):
    client = make(dated(400, age="600"))
    client.get(PATH, endpoint=ENDPOINT)
    assert (client.skew, len(meter.requests)) == (0.0, 1)


@pytest.mark.parametrize("age", ["-5", "publish_throttled", "9" * 30, "1e9", "1.5"])
def test_an_age_that_is_not_a_number_of_seconds_is_ignored(make, age):
    client = make(dated(1000, age=age))
    client.get(PATH, endpoint=ENDPOINT)
    assert client.skew == 0.0


@pytest.mark.parametrize("headers", [[("Date", "yesterday")], [(b"Date", b"\xff"), (b"Server", b"\xc3\x28")]])
def test_a_date_that_cannot_be_read_is_ignored(make, headers):
    client = make(httpx.Response(200, headers=headers))
    client.get(PATH, endpoint=ENDPOINT)
    assert client.skew == 0.0


def test_only_gzip_is_accepted_and_cookies_are_not_kept(make):
    client = make(lambda: httpx.Response(200, headers={"Set-Cookie": "session=1"}))
    client.get(PATH, endpoint=ENDPOINT)
    client.get(PATH, endpoint=ENDPOINT)
    assert client.api.requests[1].headers["accept-encoding"] == "gzip"
    assert "cookie" not in client.api.requests[1].headers


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [
        (301, RedirectError, 1),
        (302, RedirectError, 1),
        (304, RedirectError, 1),
        (307, RedirectError, 1),
        (400, ClientStatusError, 1),
        (401, AuthError, 1),
        (403, ForbiddenError, 1),
        (404, NotFoundError, 1),
        (410, NotFoundError, 1),
        (413, ClientStatusError, 1),
        (429, RateLimitedError, 3),
        (500, ServerStatusError, 3),
        (503, ServerStatusError, 3),
    ],
)
def test_each_code_has_its_error(make, meter, status, error, tries):
    client = make(lambda: httpx.Response(status, headers={"Location": "https://evil.example.com/"}))
    caught = fail(client, error)
    assert str(caught).startswith(f"GET {ENDPOINT}: {status}")
    assert getattr(caught, "status", status) == status
    assert meter.requests == [(ENDPOINT, str(status))] * tries
    assert {request.url.host for request in client.api.requests} == {"api.example.com"}


@pytest.mark.parametrize(
    ("failure", "error", "code"),
    [
        (httpx.ReadTimeout("x"), TimedOutError, "timeout"),
        (httpx.ConnectTimeout("x"), TimedOutError, "timeout"),
        (httpx.ConnectError("x"), NetworkError, "network"),
        (httpx.RemoteProtocolError("x"), NetworkError, "network"),
        (httpx.LocalProtocolError("x"), NetworkError, "network"),
    ],
)
def test_each_network_error_has_its_class_and_is_tried_three_times(make, meter, failure, error, code):
    fail(make(failure), error)
    assert meter.requests == [(ENDPOINT, code)] * 3
    assert meter.retries == 2


def test_a_temporary_error_is_retried_successfully(make, meter):
    client = make(httpx.ConnectError("x"), httpx.Response(502), httpx.Response(200, content=b"{}"))
    assert client.get(PATH, endpoint=ENDPOINT) == b"{}"
    assert meter.requests == [(ENDPOINT, "network"), (ENDPOINT, "502"), (ENDPOINT, "200")]
    assert meter.retries == 2


@pytest.mark.parametrize(("chance", "pauses"), [(0.0, [0.0, 0.0]), (0.5, [0.5, 1.0]), (1.0, [1.0, 2.0])])
def test_pauses_between_tries_are_random_parts_of_doubling_times(make, moved, chance, pauses):
    fail(make(httpx.Response(500), chance=chance), ServerStatusError)
    assert moved.slept == pauses


def test_a_shutdown_during_a_pause_ends_the_request(make, moved):
    moved.stops = True
    fail(make(httpx.Response(500)), Stopped)


def test_retries_pass_the_budget(make, meter):
    fail(make(httpx.Response(500), requests_per_minute=1.0, chance=0.0), ServerStatusError)
    assert sum(meter.waits) == pytest.approx(120.0)


def test_a_short_retry_after_is_waited_for(make, meter):
    client = make(httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(200), chance=0.0)
    client.get(PATH, endpoint=ENDPOINT)
    assert sum(meter.waits) == pytest.approx(7.0)


def test_a_retry_after_date_is_measured_by_the_servers_clock(make, meter):
    headers = {"Retry-After": "Tue, 14 Nov 2023 22:13:27 GMT", "Date": "Tue, 14 Nov 2023 22:13:20 GMT"}
    unavailable = [httpx.Response(503, headers=headers) for _ in range(2)]
    make(*unavailable, httpx.Response(200), chance=0.0).get(PATH, endpoint=ENDPOINT)
    assert sum(meter.waits) == pytest.approx(7.0)


@pytest.mark.parametrize("wrong", [3000.0, -3000.0, DAY, -DAY])
def test_one_wrong_date_does_not_lengthen_the_wait_for_a_retry_after_date(make, meter, wrong):
    headers = {"Retry-After": http_date(1007), "Date": http_date(1000 + wrong)}
    client = make(dated(1000), httpx.Response(503, headers=headers), dated(1000), chance=0.0)
    for _ in range(2):
        client.get(PATH, endpoint=ENDPOINT)
    assert sum(meter.waits) <= 7.0


@pytest.mark.parametrize("wrong", [1800.0, -1800.0])
def test_one_wrong_date_does_not_change_a_rate_limit_whose_reset_is_a_time(make, meter, moved, wrong):
    reset = str(1_700_000_000 + 1100)
    headers = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "50", "X-RateLimit-Reset": reset}
    answers = [httpx.Response(200, headers={"Date": http_date(1000 + each), **headers}) for each in (0, wrong, 0)]
    client = make(*answers)
    for _ in range(2):
        client.get(PATH, endpoint=ENDPOINT)
    assert {reset for _, _, reset in meter.said} == {1_700_000_000.0 + 1100}
    assert moved.now <= 1010.0


@pytest.mark.parametrize("wrong", [3600.0, -3600.0])
def test_a_refused_credential_is_sent_once_even_if_the_refusal_has_a_wrong_date(make, meter, wrong):
    client = make(dated(1000), httpx.Response(401, headers={"Date": http_date(1000 + wrong)}))
    client.get(PATH, endpoint=ENDPOINT)
    fail(client, AuthError)
    assert meter.requests == [(ENDPOINT, "200"), (ENDPOINT, "401")]


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitedError), (503, ServerStatusError)])
def test_a_long_retry_after_blocks_the_budget_instead_of_waiting(make, moved, meter, status, error):
    client = make(httpx.Response(status, headers={"Retry-After": "600"}))
    fail(client, error)
    fail(client, RateLimitedError)
    assert meter.requests == [(ENDPOINT, str(status))]
    assert moved.slept == []
    moved.now += 600
    fail(client, error)


def test_the_retry_after_of_the_last_try_blocks_the_budget_too(make):
    answers = [httpx.Response(429), httpx.Response(429), httpx.Response(429, headers={"Retry-After": "50"})]
    client = make(*answers, chance=0.0)
    fail(client, RateLimitedError)
    assert client._budget.wait() == 50.0


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}])
def test_a_429_without_retry_after_is_waited_for_as_the_vendor_needs_it(make, meter, headers):
    client = make(httpx.Response(429, headers=headers), httpx.Response(200), chance=0.0, rate_limit_wait=60.0)
    client.get(PATH, endpoint=ENDPOINT)
    assert sum(meter.waits) == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [(429, {"Retry-After": "7"}, 7.0), (429, {"Retry-After": "0"}, 0.0), (503, {}, 0.0)],
)
def test_a_retry_after_or_another_status_has_no_wait_of_the_vendor(make, meter, status, headers, seconds):
    client = make(httpx.Response(status, headers=headers), httpx.Response(200), chance=0.0, rate_limit_wait=60.0)
    client.get(PATH, endpoint=ENDPOINT)
    assert sum(meter.waits) == pytest.approx(seconds)


def test_rate_limit_headers_reach_the_meter_and_the_budget(make, meter):
    headers = {"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "200", "X-RateLimit-Reset": "1000"}
    client = make(lambda: httpx.Response(200, headers=headers))
    client.get(PATH, endpoint=ENDPOINT)
    client.get(PATH, endpoint=ENDPOINT)
    assert meter.said[0] == (1000, 200, 1_700_000_000.0 + 1000.0 + 1000.0)
    assert sum(meter.waits) == pytest.approx(10.0)


LIMIT = {"X-RateLimit-Limit": "1000"}


@pytest.mark.parametrize("more", [{}, LIMIT, {**LIMIT, "X-RateLimit-Remaining": "-1"}])
def test_after_429_no_request_is_sent_until_the_reset_even_if_remaining_is_unknown(make, meter, moved, more):
    client = make(httpx.Response(429, headers={"X-RateLimit-Reset": "200", **more}), httpx.Response(200))
    fail(client, RateLimitedError)
    assert meter.requests == [(ENDPOINT, "429")]
    moved.now += 200
    client.get(PATH, endpoint=ENDPOINT)


def test_a_reset_alone_changes_nothing_while_requests_succeed(make, meter):
    client = make(lambda: httpx.Response(200, headers={"X-RateLimit-Reset": "200"}))
    client.get(PATH, endpoint=ENDPOINT)
    client.get(PATH, endpoint=ENDPOINT)
    assert (meter.said, meter.waits) == ([], [])


def test_rate_limits_are_shown_for_15_minutes_after_the_server_last_sent_them(make, meter, moved):
    named = {"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "900"}
    client = make(httpx.Response(200, headers=named), lambda: httpx.Response(200))
    client.get(PATH, endpoint=ENDPOINT)
    said = list(meter.said)
    moved.now += 899
    client.get(PATH, endpoint=ENDPOINT)
    assert meter.said == said == [(1000, 900, None)]
    moved.now += 2
    for _ in range(2):
        client.get(PATH, endpoint=ENDPOINT)
    assert meter.said == [*said, (None, None, None)]


def test_rate_limits_in_every_response_are_shown_no_matter_how_rare_requests_are(make, meter, moved):
    named = {"X-RateLimit-Limit": "1000", "X-RateLimit-Remaining": "900"}
    client = make(lambda: httpx.Response(200, headers=named))
    for _ in range(3):
        client.get(PATH, endpoint=ENDPOINT)
        assert meter.said[-1] == (1000, 900, None)
        moved.now += 7200


def test_the_tighter_of_two_limits_in_one_header_counts(make, meter):
    lines = [("X-RateLimit-Limit", "1000"), ("X-RateLimit-Limit", "60")]
    lines += [("X-RateLimit-Remaining", "900"), ("X-RateLimit-Remaining", "5"), ("X-RateLimit-Reset", "30")]
    make(httpx.Response(200, headers=lines)).get(PATH, endpoint=ENDPOINT)
    assert meter.said == [(60, 5, 1_700_000_000.0 + 1000.0 + 30.0)]


def test_impossible_limits_are_logged_once_and_change_nothing(make, meter):
    headers = {"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "99999"}
    client = make(lambda: httpx.Response(200, headers=headers))
    with capture_logs() as lines:
        client.get(PATH, endpoint=ENDPOINT)
        client.get(PATH, endpoint=ENDPOINT)
    assert [line["error"] for line in lines] == ["x-ratelimit limit: is not between 1 and 1000000000"]
    assert (meter.said, meter.waits) == ([], [])


def test_a_recovered_api_gets_its_usual_requests_long_before_its_retry_after(make, moved):
    client = make(httpx.Response(429, headers={"Retry-After": "999999999"}), httpx.Response(200))
    fail(client, RateLimitedError)
    moved.now += 300
    for _ in range(3):
        client.get(PATH, endpoint=ENDPOINT)
    assert moved.slept == []


def test_the_longest_wait_for_the_budget_can_be_set(make):
    client = make(lambda: httpx.Response(200), requests_per_minute=1.0)
    client.get(PATH, endpoint=ENDPOINT)
    fail(client, RateLimitedError, patience=5.0)


def test_a_compressed_body_is_decompressed(make):
    content = gzip.compress(b"one") + gzip.compress(b"two")
    response = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Trickle([content[:9], content[9:]]))
    assert make(response).get(PATH, endpoint=ENDPOINT) == b"onetwo"


def test_a_compressed_body_that_breaks_off_is_a_network_error(make):
    content = gzip.compress(b"x" * 100)[:-9]
    fail(
        make(lambda: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Trickle([content]))), NetworkError
    )


def test_a_body_that_is_not_what_it_claims_is_a_decode_error(make):
    fail(make(httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Trickle([b"plain"]))), DecodeError)


def test_a_body_over_the_limit_is_a_decode_error_and_is_not_read_to_its_end(make):
    body = Trickle([b"x" * 600] * 100)
    fail(make(httpx.Response(200, stream=body), body_limit=1000), DecodeError)
    assert body.taken == 1


def test_a_body_exactly_at_the_limit_is_accepted(make):
    assert len(make(httpx.Response(200, content=b"x" * 1000)).get(PATH, endpoint=ENDPOINT)) == 1000
    bomb = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Trickle([gzip.compress(b"x" * 1000)]))
    assert len(make(bomb).get(PATH, endpoint=ENDPOINT)) == 1000


def test_a_decompression_bomb_is_a_decode_error(make):
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = squeeze.compress(bytes(20_000_000)) + squeeze.flush()
    fail(make(httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Trickle([bomb]))), DecodeError)


def test_a_body_that_trickles_in_for_twice_the_timeout_is_a_timeout(make, moved, meter):
    def second_passes():
        moved.now += 1.0

    client = make(lambda: httpx.Response(200, stream=Trickle([b"x"] * 500, second_passes)), timeout=10.0, chance=0.0)
    before = moved.now
    fail(client, TimedOutError)
    assert meter.requests == [(ENDPOINT, "timeout")] * 3
    assert moved.now - before <= 3 * 22


def test_no_error_shows_the_query_the_token_or_the_body(make):
    codes = (302, 400, 401, 403, 404, 429, 500)
    leaky = [httpx.Response(code, content=b"private", headers={"X-A": "private"}) for code in codes]
    errors = [httpx.RemoteProtocolError(f"illegal header {SECRET}"), httpx.ReadTimeout(f"private {SECRET}")]
    for answer in [*leaky, *errors]:
        with pytest.raises(Exception, match="GET") as caught:
            make(answer).get(PATH, endpoint=ENDPOINT, params={"q": "private"})
        text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        lines = [line for line in text.splitlines() if "File" not in line and "get(PATH" not in line]
        assert "private" not in "".join(lines)
        assert SECRET not in "".join(lines)


def test_an_impossible_address_is_a_schema_error(make):
    with pytest.raises(SchemaError):
        make(httpx.Response(200)).get("/" + "x" * 70_000, endpoint=ENDPOINT)


def test_a_request_of_a_sign_in_passes_budget_meter_and_timeouts_too(make, meter):
    class SignIn(httpx.Auth):
        def auth_flow(self, request):
            yield httpx.Request("GET", "https://id.example.com/token", extensions={"endpoint": "/token"})
            yield request

    client = make(lambda: httpx.Response(200), auth=SignIn(), requests_per_minute=1.0)
    client.get(PATH, endpoint=ENDPOINT)
    assert meter.requests == [("/token", "200"), (ENDPOINT, "200")]
    assert sum(meter.waits) == pytest.approx(60.0)
    assert client.api.requests[0].extensions["timeout"]["read"] == 30.0


def test_several_threads_may_send_requests_at_once(make, meter):
    client = make(lambda: httpx.Response(200), requests_per_minute=1000.0)
    threads = [threading.Thread(target=client.get, args=(PATH,), kwargs={"endpoint": ENDPOINT}) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert meter.requests == [(ENDPOINT, "200")] * 16
