"""Sign-in to Snowplow Console: by API key, or by password for older consoles."""

import time
from collections.abc import Callable

import httpx

from exporter.client.signin import TokenAuth, secret_text
from exporter.sources.rest import path
from exporter.sources.snowplow.settings import PasswordGrant

TOKEN_V2 = "/organizations/{org}/credentials/v2/token"  # noqa: S105  # a path
TOKEN_V3 = "/organizations/{org}/credentials/v3/token"  # noqa: S105  # a path
TOKEN_PASSWORD = "/oauth/token"  # noqa: S105  # a path
REFUSALS = {
    401: "the key is wrong or was revoked",
    403: "the key is wrong, or lacks the permission to view data models and jobs",
    404: "unknown organization",
}


def api_key_auth(
    root: str,
    organization: str,
    *,
    api_key: Callable[[], str],
    api_key_id: str | None,
    clock: Callable[[], float] = time.time,
) -> TokenAuth:
    """Return the sign-in by API key: version 3 if the key has an ID, otherwise the deprecated version 2."""
    endpoint = TOKEN_V2 if api_key_id is None else TOKEN_V3

    def token_request() -> httpx.Request:
        headers = {"Accept": b"application/json", "X-API-Key": secret_text(api_key).encode()}
        if api_key_id is not None:
            headers["X-API-Key-ID"] = secret_text(lambda: api_key_id).encode()
        raw_headers = [(name.encode(), value) for name, value in headers.items()]
        return httpx.Request("GET", root + path(endpoint, org=organization), headers=raw_headers)

    other = "the request was not understood"
    return TokenAuth(endpoint, token_request, refusals=REFUSALS, other_refusal=other, clock=clock)


def password_auth(grant: PasswordGrant, clock: Callable[[], float] = time.time) -> TokenAuth:
    """Return the sign-in by user and password, for older consoles."""

    def token_request() -> httpx.Request:
        form = {
            "grant_type": "password",
            "username": grant.username,
            "password": secret_text(grant.password.reveal),
            "audience": grant.audience,
            "client_id": grant.client_id,
            "client_secret": secret_text(grant.client_secret.reveal),
        }
        return httpx.Request("POST", grant.token_url, data=form, headers={"Accept": "application/json"})

    return TokenAuth(
        TOKEN_PASSWORD,
        token_request,
        refusals={404: "the token URL does not exist"},
        other_refusal="the user or the client is not accepted",
        clock=clock,
    )
