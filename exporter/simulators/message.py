"""Requests, responses and routes: HTTP as a simulated vendor sees it."""

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        headers: Headers by name, in lower case.
        endpoint: Short name of the route; "" if no route matches.
        template: Path template of the route; "" if no route matches.
        parameters: The decoded variable parts of the path, by their names in the template.
        received: Time at which it was received.
        wrong_answers: Wrong answers to use instead of the active ones; None for the active ones.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    endpoint: str = ""
    template: str = ""
    parameters: Mapping[str, str] = {}
    received: float = 0.0
    wrong_answers: tuple[object, ...] | None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One complete response, before any disruption."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}

    def with_headers(self, headers: Mapping[str, str]) -> "Response":
        """Return the same response with more headers."""
        return msgspec.structs.replace(self, headers={**self.headers, **headers}) if headers else self


def json_response(value: object, status: int = 200) -> Response:
    """Return a response whose body is a value as JSON."""
    return Response(status=status, body=msgspec.json.encode(value))


def enveloped(rows: Sequence[object], key: str) -> object:
    """Return the rows as they are, or under a key."""
    return {key: rows} if key else rows


class Refused(Exception):  # noqa: N818  # it is a response, not an error
    """The vendor refuses a request. The simulator returns the vendor's error."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


Handler = Callable[[Request], Response]


class Route(msgspec.Struct, frozen=True):
    """An endpoint: its short name, method, path template with `{name}` for variable segments, and handler."""

    endpoint: str
    method: str
    template: str
    handler: Handler

    def match(self, method: str, segments: list[str]) -> dict[str, str] | None:
        """Return the decoded variable segments; None if the method or the path does not match."""
        wanted = self.template.split("/")
        if method != self.method or len(wanted) != len(segments):
            return None
        parameters = {}
        for want, have in zip(wanted, segments, strict=True):
            if want.startswith("{"):
                parameters[want[1:-1]] = unquote(have)
            elif want != have:
                return None
        return parameters
