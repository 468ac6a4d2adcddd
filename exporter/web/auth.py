"""Basic auth and response headers of the web config file, for every path."""

import base64
import binascii
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.web.file import ActiveWebConfig
from exporter.web.passwords import Credentials, Passwords, TooManyChecksError

CHALLENGE = {"WWW-Authenticate": 'Basic realm="jobrun-exporter", charset="UTF-8"'}


class SecuredApplication:
    """An application with basic auth and additional headers for every path. `active`: returns the web config."""

    def __init__(self, app: ASGIApp, active: Callable[[], ActiveWebConfig], passwords: Passwords | None = None) -> None:
        self._app = app
        self._active = active
        self._passwords = passwords or Passwords()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        active = self._active()
        refusal = await self._refusal(scope, active) if active.users else None
        await (refusal or self._app)(scope, receive, _with_headers(send, active.headers))

    async def _refusal(self, scope: Scope, active: ActiveWebConfig) -> ASGIApp | None:
        """Return the response to a request without a valid password; None if its password is valid."""
        claimed = credentials_of(scope)
        client = scope["client"][0] if scope.get("client") else ""
        try:
            if claimed is not None and await self._passwords.accepts(claimed, active.users, client):
                return None
        except TooManyChecksError:
            return _response(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "1"})
        return _response(HTTPStatus.UNAUTHORIZED, CHALLENGE)


def _response(status: HTTPStatus, headers: dict[str, str]) -> ASGIApp:
    return PlainTextResponse(f"{status.phrase}\n", status, headers)


def credentials_of(scope: Scope) -> Credentials | None:
    """Return user and password of a request's `Authorization: Basic` header; None if there are none."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, encoded = given.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return Credentials(user, password) if colon else None


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Return a `send` that sets headers of a response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers
