"""Why a question has no answer, each with the status of HTTP that says so."""


class ReportError(Exception):
    """A question cannot be answered; the message is a sentence for the person who asked.

    `status` is the HTTP status that fits, `retry_after` the seconds after which another try may do better.
    """

    status = 500
    retry_after: float | None = None


class BadQuestionError(ReportError):
    """The question itself is wrong. `parameter`: the part that is."""

    status = 400

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class UnknownError(ReportError):
    """There is no such source, run or log."""

    status = 404


class LogsOffError(ReportError):
    """Output is shown only with `web.logs: true`."""

    status = 403


class UpstreamError(ReportError):
    """The vendor's API could not be asked, or gave no usable answer."""

    status = 502


class BusyError(ReportError):
    """Too much is asked at once, or the state cannot be read now."""

    status = 503
    retry_after = 5.0


class TooManyError(ReportError):
    """Questions come too fast."""

    status = 429
    retry_after = 1.0
