"""What stands before all pages: the headers of every answer, and basic auth where there are users."""

import base64
import binascii
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import bcrypt
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.web.file import InForce, WebFile
from exporter.web.passwords import BusyError, Credentials, Passwords

CHALLENGE = {"WWW-Authenticate": 'Basic realm="jobrun-exporter", charset="UTF-8"'}


class Guarded:
    """An application behind basic auth: every path, without exception, as the web config in force says.

    Args:
        app: What answers to those who may come in.
        in_force: What holds at this moment.
        passwords: Checks them.
    """

    def __init__(self, app: ASGIApp, in_force: Callable[[], InForce], passwords: Passwords) -> None:
        self._app = app
        self._in_force = in_force
        self._passwords = passwords

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        now = self._in_force()
        refusal = await self._refusal(scope, now) if now.users else None
        await (refusal or self._app)(scope, receive, _with_headers(send, now.headers))

    async def _refusal(self, scope: Scope, now: InForce) -> ASGIApp | None:
        claimed = claimed_by(scope)
        client = scope["client"][0] if scope.get("client") else ""
        try:
            if claimed is not None and await self._passwords.accepts(claimed, now.users, client):
                return None
        except BusyError:
            return _answer(HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "1"})
        return _answer(HTTPStatus.UNAUTHORIZED, CHALLENGE)


def guarded(app: ASGIApp, file: WebFile) -> Guarded:
    """An application behind what a web config file says."""
    return Guarded(app, file.current, Passwords(secrets.token_bytes(32), bcrypt.checkpw))


def _answer(status: HTTPStatus, headers: dict[str, str]) -> ASGIApp:
    return PlainTextResponse(f"{status.phrase}\n", status, headers)


def claimed_by(scope: Scope) -> Credentials | None:
    """The user and password of a request's `Authorization: Basic`; None without one that can be read."""
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
    """Adds headers to the answer, in place of those of the same name that a page has itself."""
    names = {name for name, _ in headers}

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [pair for pair in message.get("headers", ()) if pair[0] not in names]
            message = {**message, "headers": [*own, *headers]}
        await send(message)

    return sent if headers else send
