"""Errors of queries, each with its HTTP status."""


class ReportError(Exception):
    """A query cannot be answered. The message is a sentence for the person who asked.

    Attributes:
        status: The HTTP status.
        retry_after: Seconds after which a retry may succeed; None if a retry does not help.
    """

    status = 500
    retry_after: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Return the HTTP headers of the error."""
        return {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:.0f}"}


class InvalidParameterError(ReportError):
    """A parameter of the query is invalid."""

    status = 400

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class UnknownError(ReportError):
    """The source, run, output or page does not exist."""

    status = 404


class LogsOffError(ReportError):
    """Output is shown only with `web.logs: true`."""

    status = 403


class UpstreamError(ReportError):
    """The vendor's API could not be reached, or did not return a usable response."""

    status = 502


class BusyError(ReportError):
    """Too many queries are in progress, or the state cannot be read now."""

    status = 503
    retry_after = 5.0


class TooManyError(ReportError):
    """Queries arrive too fast."""

    status = 429
    retry_after = 1.0
