"""Snowplow's three ways to sign in for a bearer token."""

from urllib.parse import parse_qsl

import msgspec

from exporter.simulators.message import Refused, Request


class SnowplowCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """Credentials: a key with its ID (version 3), only a key (version 2), or a user's password (for older consoles)."""

    api_key_id: str = "simulated-key-id"
    api_key: str = "simulated-key"
    username: str = "user@example.com"
    password: str = "simulated-password"
    client_id: str = "simulated-client"
    client_secret: str = "simulated-client-secret"
    audience: str = "https://snowplowanalytics.com/api/"


def check_key_and_id(request: Request, credentials: SnowplowCredentials) -> None:
    """Check the sign-in of version 3: both headers. Raises Refused 401."""
    given = request.headers.get("x-api-key-id"), request.headers.get("x-api-key")
    if given != (credentials.api_key_id, credentials.api_key):
        raise Refused(401, "invalid API key")


def check_key(request: Request, credentials: SnowplowCredentials) -> None:
    """Check the sign-in of version 2: the key alone. Raises Refused 401."""
    if request.headers.get("x-api-key") != credentials.api_key:
        raise Refused(401, "invalid API key")


def check_password(request: Request, credentials: SnowplowCredentials) -> None:
    """Check the older flow: a form with the credentials of user and client. Raises Refused 400, 401 or 415."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise Refused(415, "a form is required")
    form = dict(parse_qsl(request.body.decode()))
    if form.pop("grant_type", "") != "password":
        raise Refused(400, "unsupported grant")
    known: dict[str, str] = msgspec.structs.asdict(credentials)
    if any(
        form.get(name) != known[name] for name in ("username", "password", "client_id", "client_secret", "audience")
    ):
        raise Refused(401, "invalid grant")
