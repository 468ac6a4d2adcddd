"""Disruptions of a simulated API. Tests and `POST /-/faults` switch them on.

    replaces the answer   status html redirect garbage huge
    affects its delivery  hang slow half reset outage wrongdate
    wrong rows            stale late lost_end shorter drop duplicate shuffle nameless
                          (see exporter.simulators.response_view)
    contradicts itself    contradict                                      (see exporter.simulators.contradiction)

As JSON, a disruption is an object with one of these words as `kind`, such as
`{"kind": "status", "code": 503, "endpoint": "runs", "count": 2}`.
"""

import re
from email.utils import formatdate, parsedate_to_datetime
from typing import Literal, Protocol

import msgspec

from exporter.simulators.message import Response


class Wire(Protocol):
    """The connection to a client, as a disruption uses it."""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""

    def pause(self, seconds: float | None) -> bool:
        """Wait in real time; None waits until the simulator stops. Return False if the simulator has stopped."""

    def close(self, *, abruptly: bool = False) -> None:
        """Close the connection after the sent bytes. `abruptly`: with a TCP reset."""


class Disruption(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True
):
    """Base class of disruptions. It selects the requests that a disruption affects.

    Attributes:
        endpoint: Short name or path template of a route; None for all routes of the vendor.
        path: Text that a path must contain, such as the ID of a run; "" for all paths.
        probability: Random fraction of these requests that it affects.
        count: Maximum number of affected requests; None for no limit.
        since: When it begins, by the simulator's clock.
        until: When it ends.
    """

    endpoint: str | None = None
    path: str = ""
    probability: float = 1.0
    count: int | None = None
    since: float | None = None
    until: float | None = None

    def active(self, now: float) -> bool:
        """Return whether the disruption is active at a time."""
        return (self.since is None or now >= self.since) and (self.until is None or now < self.until)


class AnswerDisruption(Disruption, frozen=True, kw_only=True):
    """Replaces the response. The vendor's handler is not called."""

    def answer(self, vendor_error: Response, now: float) -> Response:
        """Return the response. `vendor_error`: an error with `error_status` in the vendor's shape."""
        raise NotImplementedError

    @property
    def error_status(self) -> int:
        """Return the status of the vendor's error that `answer` uses."""
        return 500


class Status(AnswerDisruption, frozen=True, kw_only=True, tag="status"):
    """Returns an error. `retry_after` is sent in seconds, as an HTTP date, or as nonsense."""

    code: int
    body: Literal["vendor", "html", "empty", "text"] = "vendor"
    retry_after: float | None = None
    retry_after_form: Literal["seconds", "date", "garbage"] = "seconds"

    @property
    def error_status(self) -> int:
        """Return the status code."""
        return self.code

    def answer(self, vendor_error: Response, now: float) -> Response:
        """Return the error, with a `Retry-After` if there is one."""
        plain = {
            "vendor": vendor_error,
            "html": Response(status=self.code, body=ERROR_PAGE, content_type="text/html"),
            "empty": Response(status=self.code, content_type="text/plain"),
            "text": Response(status=self.code, body=b"upstream connect error", content_type="text/plain"),
        }[self.body]
        if self.retry_after is None:
            return plain
        form = {
            "seconds": f"{self.retry_after:g}",
            "date": formatdate(now + self.retry_after, usegmt=True),
            "garbage": "soon",
        }
        return plain.with_headers({"Retry-After": form[self.retry_after_form]})


class Html(AnswerDisruption, frozen=True, kw_only=True, tag="html"):
    """Returns 200 with a web page, as a login page or a proxy does."""

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """Return the page."""
        return Response(body=ERROR_PAGE, content_type="text/html")


class Redirect(AnswerDisruption, frozen=True, kw_only=True, tag="redirect"):
    """Redirects to another address."""

    location: str
    code: int = 302

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """Return the redirect."""
        return Response(status=self.code, headers={"Location": self.location})


class Garbage(AnswerDisruption, frozen=True, kw_only=True, tag="garbage"):
    """Returns 200 with JSON of an undocumented shape, or with any text."""

    text: str = '{"unexpected": {"shape": [1, null, "x"]}}'

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """Return the text as JSON."""
        return Response(body=self.text.encode())


class Huge(AnswerDisruption, frozen=True, kw_only=True, tag="huge"):
    """Returns 200 with a very large body of valid JSON."""

    mebibytes: float = 64.0

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """Return an array with one long string."""
        return Response(body=b'["' + b"x" * int(self.mebibytes * 1024 * 1024) + b'"]')


class DeliveryDisruption(Disruption, frozen=True, kw_only=True):
    """Delivers a correct response incorrectly."""

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Send the response, or a part of it."""
        raise NotImplementedError


class Hang(DeliveryDisruption, frozen=True, kw_only=True, tag="hang"):
    """Responds after some real seconds; None for never."""

    seconds: float | None = None

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Wait, then send the response, unless the simulator has stopped."""
        if wire.pause(self.seconds):
            wire.send(head + body)
        else:
            wire.close()


class Slow(DeliveryDisruption, frozen=True, kw_only=True, tag="slow"):
    """Sends the body slowly: `chunk` bytes at a time, `pause` real seconds apart."""

    chunk: int = 16
    pause: float = 0.1

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Send the head at once, and the body in chunks."""
        wire.send(head)
        for start in range(0, len(body), self.chunk):
            if not wire.pause(self.pause):
                return wire.close()
            wire.send(body[start : start + self.chunk])
        return None


class Half(DeliveryDisruption, frozen=True, kw_only=True, tag="half"):
    """Closes the connection after a fraction of the announced body."""

    share: float = 0.5

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Send the head and a part of the body."""
        wire.send(head + body[: int(len(body) * self.share)])
        wire.close()


class Reset(DeliveryDisruption, frozen=True, kw_only=True, tag="reset"):
    """Closes the connection without a response; `abruptly`: with a TCP reset."""

    abruptly: bool = True

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:  # noqa: ARG002  # the interface of all deliveries
        """Close without sending anything."""
        wire.close(abruptly=self.abruptly)


class Outage(Reset, frozen=True, kw_only=True, tag="outage"):
    """Resets every connection between two times of the simulator's clock."""

    since: float
    until: float


class WrongDate(DeliveryDisruption, frozen=True, kw_only=True, tag="wrongdate"):
    """Sends the correct response with a `Date` that is some seconds ahead, or behind if negative."""

    seconds: float

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Send the response with the other date."""
        before, date, after = re.split(rb"(?<=\r\nDate: )([^\r]+)", head, maxsplit=1)
        wrong = parsedate_to_datetime(date.decode()).timestamp() + self.seconds
        wire.send(before + formatdate(wrong, usegmt=True).encode() + after + body)


class WrongAnswer(Disruption, frozen=True, kw_only=True):
    """Base class of disruptions that show well-formed but wrong rows."""


class Stale(WrongAnswer, frozen=True, kw_only=True, tag="stale"):
    """Shows rows as they were some seconds ago."""

    seconds: float


class Late(WrongAnswer, frozen=True, kw_only=True, tag="late"):
    """Shows the changes of a fraction of the runs some seconds late."""

    seconds: float
    share: float = 1.0


class LostEnd(WrongAnswer, frozen=True, kw_only=True, tag="lost_end"):
    """Shows as active forever: the given runs, the runs of the given jobs, and a fraction of all runs."""

    run_ids: tuple[str, ...] = ()
    job_ids: tuple[str, ...] = ()
    share: float = 0.0


class Shorter(WrongAnswer, frozen=True, kw_only=True, tag="shorter"):
    """Shows an earlier end of the given completed runs and of a fraction of all, but no end before the start."""

    seconds: float = 10.0
    run_ids: tuple[str, ...] = ()
    share: float = 0.0


class Drop(WrongAnswer, frozen=True, kw_only=True, tag="drop"):
    """Omits the rows of the given runs and a random fraction of all rows."""

    share: float = 0.5
    run_ids: tuple[str, ...] = ()


class Duplicate(WrongAnswer, frozen=True, kw_only=True, tag="duplicate"):
    """Shows a random fraction of the rows twice."""

    share: float = 0.5


class Shuffle(WrongAnswer, frozen=True, kw_only=True, tag="shuffle"):
    """Shows the rows in random order."""


class Nameless(WrongAnswer, frozen=True, kw_only=True, tag="nameless"):
    """Omits the IDs from the rows of the given runs and from a random fraction of all rows."""

    run_ids: tuple[str, ...] = ()
    share: float = 0.0


class Contradict(Disruption, frozen=True, kw_only=True, tag="contradict"):
    """Shows some runs a second time in lists, in another state.

    Attributes:
        run_ids: Runs that every list shows a second time.
        share: Random fraction of the other rows that are copied.
        copy: The state of the copy: active, completed earlier, or as it was `seconds` ago.
        seconds: See `copy`.
        copy_first: Whether the copy comes right before its row, or right after it; None for a random choice.
        on: Where the copy is: on the same page as its row, or (only for `run_ids`) on the first page, or on every later
            page without the row.
    """

    run_ids: tuple[str, ...] = ()
    share: float = 0.0
    copy: Literal["open", "shorter", "stale"] = "open"
    seconds: float = 300.0
    copy_first: bool | None = None
    on: Literal["same", "first", "later"] = "same"


AnyDisruption = (
    Status | Html | Redirect | Garbage | Huge | Hang | Slow | Half | Reset | Outage | WrongDate
    | Stale | Late | LostEnd | Shorter | Drop | Duplicate | Shuffle | Nameless | Contradict
)  # fmt: skip

ERROR_PAGE = b"<!DOCTYPE html><html><body><h1>Please sign in</h1></body></html>"
