"""Sign-in to Snowplow Console: by API key, or by password for older consoles."""

import time
from collections.abc import Callable, Mapping

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
}


class ApiKeyAuth(TokenAuth):
    """Sign-in by API key: version 3 if the key has an ID, otherwise version 2, which is deprecated.

    `root` is the API's root URL. Secrets are read again at each sign-in.
    """

    def __init__(
        self,
        root: str,
        organization: str,
        *,
        api_key: Callable[[], str],
        api_key_id: Callable[[], str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(clock)
        self._endpoint = TOKEN_V2 if api_key_id is None else TOKEN_V3
        self._url = root.rstrip("/") + path(self._endpoint, org=organization)
        self._headers = {"X-API-Key": api_key}
        if api_key_id is not None:
            self._headers["X-API-Key-ID"] = api_key_id

    def token_request(self, extensions: Mapping[str, object]) -> httpx.Request:
        """Return the request for a token, with the key in headers."""
        headers = {name: secret_text(read).encode() for name, read in self._headers.items()}
        return httpx.Request(
            "GET",
            self._url,
            headers=[(b"Accept", b"application/json"), *((name.encode(), value) for name, value in headers.items())],
            extensions={**extensions, "endpoint": self._endpoint},
        )

    def explain_refusal(self, status: int) -> str:
        """Return the meaning of a refusal. The path has the organization, so 404 means that it is unknown."""
        return REFUSALS.get(status, "unknown organization" if status == 404 else "the request was not understood")


class PasswordAuth(TokenAuth):
    """Sign-in by user and password, for older consoles. Secrets are read again at each sign-in."""

    def __init__(self, grant: PasswordGrant, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock)
        self._grant = grant

    def token_request(self, extensions: Mapping[str, object]) -> httpx.Request:
        """Return the request for a token, with a form as body."""
        grant = self._grant
        form = {
            "grant_type": "password",
            "username": grant.username,
            "password": secret_text(grant.password.reveal),
            "audience": grant.audience,
            "client_id": grant.client_id,
            "client_secret": secret_text(grant.client_secret.reveal),
        }
        return httpx.Request(
            "POST",
            grant.token_url,
            data=form,
            headers={"Accept": "application/json"},
            extensions={**extensions, "endpoint": TOKEN_PASSWORD},
        )

    def explain_refusal(self, status: int) -> str:
        """Return the meaning of a refusal. 404 means that the token URL is wrong."""
        return "the token URL does not exist" if status == 404 else "the user or the client is not accepted"
