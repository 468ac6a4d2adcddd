"""Errors whose messages may be shown and logged: they contain no secret, header, query or body."""

from collections.abc import Mapping


class JobrunError(Exception):
    """Base class of these errors. `reason`: value of the label `reason` for a poll that fails with the error."""

    reason = "internal"


class CommandError(JobrunError):
    """A command cannot do what it was asked to do."""


class SourceError(JobrunError):
    """An API did not return a usable response."""

    reason = "network"


class BlockedError(SourceError):
    """Other requests to this source would fail, too. Unless a vendor limits one of its endpoints, it ends the poll."""


class AuthError(BlockedError):
    """The API refused the credential, or the credential is not available."""

    reason = "auth"


class RateLimitedError(BlockedError):
    """The budget or the API allows no request now, and waiting would take too long."""

    reason = "rate_limited"


class TimedOutError(SourceError):
    """The response was not complete in time."""

    reason = "timeout"


class NetworkError(SourceError):
    """The connection could not be made, or broke."""


class ProxyRefusedError(BlockedError):
    """The proxy refused the request. It is not retried, because a retry could lock the account."""


class RedirectError(SourceError):
    """The API returned a redirect, which is never followed."""

    reason = "redirect"


class ClientStatusError(SourceError):
    """The API refused the request."""

    reason = "http_4xx"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(ClientStatusError):
    """The API returned 404."""


class ForbiddenError(ClientStatusError):
    """The API returned 403."""


class ServerStatusError(SourceError):
    """The API returned a status of 500 or more."""

    reason = "http_5xx"


class DecodeError(SourceError):
    """The response is incomplete, not JSON, or too large."""

    reason = "decode"


class SchemaError(SourceError):
    """The response is JSON of an unexpected shape."""

    reason = "schema"


class PartialError(SourceError):
    """Some parts of a source (runs, jobs, customers) could not be read. All others were read.

    `Source.fetch` raises it after its last batch.

    Args:
        parts: The error of each part by the part's name, such as "recipe 12"; not empty.
        scope_failed: Whether one of them is a whole scope that should be readable.
    """

    def __init__(self, parts: Mapping[str, SourceError], *, scope_failed: bool = False) -> None:
        self.parts = dict(parts)
        self.scope_failed = scope_failed
        part, error = next(iter(self.parts.items()))
        others = len(self.parts) - 1
        super().__init__(f"{part}: {error}" + (f" (and {others} more parts failed)" if others else ""))
        self.reason = error.reason


class StateError(JobrunError):
    """The state could not be written or read."""

    reason = "state"


REASONS = (
    *("auth", "rate_limited", "timeout", "network", "redirect", "http_4xx", "http_5xx", "decode", "schema", "state"),
    "internal",  # any other exception, which is a bug in the exporter
)
"""All values of the label `reason`."""
