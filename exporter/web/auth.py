"""Basic auth and response headers of the web config file, for every path."""

import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import bcrypt
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.web.file import ActiveWebConfig, WebFile
from exporter.web.passwords import Credentials, Passwords, TooManyChecksError

CHALLENGE = {"WWW-Authenticate": 'Basic realm="jobrun-exporter", charset="UTF-8"'}


class Guarded:
    """An application with basic auth for every path. `active`: returns the current settings."""

    def __init__(self, app: ASGIApp, active: Callable[[], ActiveWebConfig], passwords: Passwords) -> None:
        self._app = app
        self._active = active
        self._passwords = passwords

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        active = self._active()
        denial = await self._deny(scope, active) if active.users else None
        await (denial or self._app)(scope, receive, _with_headers(send, active.headers))

    async def _deny(self, scope: Scope, active: ActiveWebConfig) -> ASGIApp | None:
        claimed = credentials_of(scope)
        client = scope["client"][0] if scope.get("client") else ""
        try:
            if claimed is not None and await self._passwords.accepts(claimed, active.users, client):
                return None
        except TooManyChecksError:
            return _response(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "1"})
        return _response(HTTPStatus.UNAUTHORIZED, CHALLENGE)


def guarded(app: ASGIApp, file: WebFile) -> Guarded:
    """Return an application with the users and headers of a web config file."""
    return Guarded(app, file.current, Passwords(secrets.token_bytes(32), bcrypt.checkpw))


def _response(status: HTTPStatus, headers: dict[str, str]) -> ASGIApp:
    return PlainTextResponse(f"{status.phrase}\n", status, headers)


def credentials_of(scope: Scope) -> Credentials | None:
    """Return the user and password of a request's `Authorization: Basic`; None if it has none or it is unreadable."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, encoded = given.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return Credentials(user, password) if colon else None


def _with_headers(send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> Callable[[Message], Awaitable[None]]:
    """Return a `send` that adds headers to a response. They replace the response's headers of the same names."""
    names = {name for name, _ in headers}

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [pair for pair in message.get("headers", ()) if pair[0] not in names]
            message = {**message, "headers": [*own, *headers]}
        await send(message)

    return send_with_headers if headers else send
