"""What can go wrong while asking an API, and the word under which it is counted.

    SourceError             reason
    ├── AuthError           auth
    ├── RateLimitedError    rate_limited
    ├── TimedOutError       timeout
    ├── NetworkError        network      (ProxyRefusedError: a proxy wants another password, so it is asked once)
    ├── RedirectError       redirect
    ├── ClientStatusError   http_4xx     (status: the code; NotFoundError: 404, ForbiddenError: 403)
    ├── ServerStatusError   http_5xx
    ├── DecodeError         decode       (not JSON, not whole, too large)
    ├── SchemaError         schema       (JSON, but not of the shape that was promised)
    └── PartialError        that of its first part
    StateError              state        (our own disk, not the API)
    any other exception     internal     (a bug of ours)

No message holds a secret, a header, a query or a body: they are logged and shown.
"""

from collections.abc import Mapping


class JobrunError(Exception):
    """Base of all errors that have a reason."""

    reason: str


class SourceError(JobrunError):
    """An API did not give a usable answer."""

    reason = "network"


class AuthError(SourceError):
    """The credential was refused, or none could be had."""

    reason = "auth"


class RateLimitedError(SourceError):
    """The API asked us to slow down, and the wait would be longer than a poll may take."""

    reason = "rate_limited"


class TimedOutError(SourceError):
    """No whole answer in time."""

    reason = "timeout"


class NetworkError(SourceError):
    """No connection, or one that broke."""

    reason = "network"


class ProxyRefusedError(NetworkError):
    """The proxy refused, and will refuse again: asking again could lock the account."""


class RedirectError(SourceError):
    """The API answered with a redirect, which is never followed."""

    reason = "redirect"


class ClientStatusError(SourceError):
    """The API refused the request."""

    reason = "http_4xx"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(ClientStatusError):
    """404."""


class ForbiddenError(ClientStatusError):
    """403."""


class ServerStatusError(SourceError):
    """The API failed."""

    reason = "http_5xx"


class DecodeError(SourceError):
    """The answer was not whole, not JSON, or larger than allowed."""

    reason = "decode"


class SchemaError(SourceError):
    """The answer was JSON of another shape."""

    reason = "schema"


class PartialError(SourceError):
    """Some parts of a source (a run, a job, a customer) could not be read; everything else was.

    Raised by `Source.readings` after its last reading. `parts` maps the name of each part, such as "recipe 12", to
    its error; there is at least one.
    """

    def __init__(self, parts: Mapping[str, SourceError]) -> None:
        self.parts = dict(parts)
        part, error = next(iter(self.parts.items()))
        others = len(self.parts) - 1
        super().__init__(f"{part}: {error}" + (f" (and {others} more of its parts)" if others else ""))
        self.reason = error.reason


class StateError(JobrunError):
    """The state could not be written or read."""

    reason = "state"


REASONS = (
    "auth",
    "rate_limited",
    "timeout",
    "network",
    "redirect",
    "http_4xx",
    "http_5xx",
    "decode",
    "schema",
    "state",
    "internal",
)
"""All values of the label `reason`."""
