"""The error of queries."""

HEADERS = {405: {"Allow": "GET, HEAD"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}}
"""HTTP headers of errors, by status. Retry-After: seconds after which a retry may succeed."""


class QueryError(Exception):
    """A query cannot be answered. The message is for the person who asked.

    Args:
        status: The HTTP status.
        parameter: The invalid parameter; "" if there is another reason.
    """

    def __init__(self, status: int, message: str, *, parameter: str = "") -> None:
        super().__init__(f"{parameter}: {message}" if parameter else message)
        self.status = status
        self.parameter = parameter
        self.headers = HEADERS.get(status, {})
