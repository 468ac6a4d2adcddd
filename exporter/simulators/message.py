"""Requests, answers and routes: what a simulated vendor sees of HTTP."""

from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Header names are lower case; `parameters` are the decoded `{...}` parts of the template.

    `endpoint` and `template` are those of the route, "" where no route fits; `received` is an instant.
    `lies`: with these, instead of those in force, the simulator asks itself for copies of rows.
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
    lies: tuple[object, ...] | None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, whole, before any fault is done to it."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}

    def with_headers(self, headers: Mapping[str, str]) -> "Response":
        """The same answer with more headers."""
        return msgspec.structs.replace(self, headers={**self.headers, **headers}) if headers else self


def json_response(value: object, status: int = 200) -> Response:
    """An answer whose body is this value as JSON."""
    return Response(status=status, body=msgspec.json.encode(value))


class Refused(Exception):  # noqa: N818  # it is an answer, raised from where the request is found wanting
    """The vendor refuses a request; the simulator gives the message the vendor's error shape."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}


Handler = Callable[[Request], Response]


class Route(msgspec.Struct, frozen=True):
    """A row of a route table: `endpoint` is its short name, `template` its path with `{name}` for variable segments."""

    endpoint: str
    method: str
    template: str
    handler: Handler

    def match(self, method: str, segments: list[str]) -> dict[str, str] | None:
        """The decoded variable segments, or None where method or path differ."""
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
