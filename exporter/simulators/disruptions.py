"""What a simulated API can do wrong: a table of frozen records, each switched on by a test or by `POST /-/faults`.

    replaces the answer   status html redirect garbage huge
    harms its delivery    hang slow half reset outage wrongdate
    lies in its rows      stale late lost_end shorter drop duplicate shuffle nameless
                          (see exporter.simulators.response_view)
    contradicts itself    contradict                                      (see exporter.simulators.contradiction)

As JSON each is an object with its word as `kind`: `{"kind": "status", "code": 503, "endpoint": "runs", "count": 2}`.
"""

import re
from email.utils import formatdate, parsedate_to_datetime
from typing import Literal, Protocol

import msgspec

from exporter.simulators.message import Response


class Wire(Protocol):
    """The connection to a client, as a fault sees it."""

    def send(self, data: bytes) -> None:
        """Sends bytes as they are."""

    def pause(self, seconds: float | None) -> bool:
        """Waits really (None: until the simulator stops); False if the simulator stopped meanwhile."""

    def close(self, *, abruptly: bool = False) -> None:
        """Ends the connection after what was sent; abruptly: with a TCP reset."""


class Disruption(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=str.lower, forbid_unknown_fields=True
):
    """What all faults have in common: when they strike.

    Attributes:
        endpoint: Short name or path template of a route; None: every one of the vendor's.
        path: Only requests whose path holds this text, such as the ID of a run; "": all.
        probability: The share of requests that it strikes.
        count: How often it strikes before it is spent; None: for ever.
        since: It strikes from this instant of the simulator's clock on.
        until: It strikes up to this instant.
    """

    endpoint: str | None = None
    path: str = ""
    probability: float = 1.0
    count: int | None = None
    since: float | None = None
    until: float | None = None

    def active(self, now: float) -> bool:
        """Whether an instant is within its time."""
        return (self.since is None or now >= self.since) and (self.until is None or now < self.until)


class AnswerDisruption(Disruption, frozen=True, kw_only=True):
    """Gives another answer; the vendor's own code is not asked."""

    def answer(self, vendor_error: Response, now: float) -> Response:
        """The answer instead; `vendor_error` is one of status `code` in the vendor's own shape."""
        raise NotImplementedError

    @property
    def error_status(self) -> int:
        """The status for which `answer` wants the vendor's error."""
        return 500


class Status(AnswerDisruption, frozen=True, kw_only=True, tag="status"):
    """An error status. `retry_after` seconds are sent as such, or as an HTTP date, or as nonsense."""

    code: int
    body: Literal["vendor", "html", "empty", "text"] = "vendor"
    retry_after: float | None = None
    retry_after_form: Literal["seconds", "date", "garbage"] = "seconds"

    @property
    def error_status(self) -> int:
        """Its own code."""
        return self.code

    def answer(self, vendor_error: Response, now: float) -> Response:
        """The error, with a `Retry-After` if told so."""
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
    """200 with a web page, as a login wall or a proxy gives it."""

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """The page."""
        return Response(body=ERROR_PAGE, content_type="text/html")


class Redirect(AnswerDisruption, frozen=True, kw_only=True, tag="redirect"):
    """Sends the client elsewhere."""

    location: str
    code: int = 302

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """The redirect."""
        return Response(status=self.code, headers={"Location": self.location})


class Garbage(AnswerDisruption, frozen=True, kw_only=True, tag="garbage"):
    """200 with JSON of a shape that nobody promised (or any text at all)."""

    text: str = '{"unexpected": {"shape": [1, null, "x"]}}'

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """The text, as JSON."""
        return Response(body=self.text.encode())


class Huge(AnswerDisruption, frozen=True, kw_only=True, tag="huge"):
    """200 with a body of so many MiB of valid JSON."""

    mebibytes: float = 64.0

    def answer(self, vendor_error: Response, now: float) -> Response:  # noqa: ARG002  # the interface of all answers
        """An array with one long string."""
        return Response(body=b'["' + b"x" * int(self.mebibytes * 1024 * 1024) + b'"]')


class DeliveryDisruption(Disruption, frozen=True, kw_only=True):
    """The right answer, wrongly delivered."""

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Sends the answer, or what becomes of it."""
        raise NotImplementedError


class Hang(DeliveryDisruption, frozen=True, kw_only=True, tag="hang"):
    """Answers only after so many real seconds; None: never."""

    seconds: float | None = None

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Waits, then answers, unless the simulator stopped."""
        if wire.pause(self.seconds):
            wire.send(head + body)
        else:
            wire.close()


class Slow(DeliveryDisruption, frozen=True, kw_only=True, tag="slow"):
    """Dribbles the body: `chunk` bytes, `pause` real seconds, and so on."""

    chunk: int = 16
    pause: float = 0.1

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Head at once, body in drops."""
        wire.send(head)
        for start in range(0, len(body), self.chunk):
            if not wire.pause(self.pause):
                return wire.close()
            wire.send(body[start : start + self.chunk])
        return None


class Half(DeliveryDisruption, frozen=True, kw_only=True, tag="half"):
    """Promises the whole body, sends this share of it, and closes."""

    share: float = 0.5

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """The head and a part of the body."""
        wire.send(head + body[: int(len(body) * self.share)])
        wire.close()


class Reset(DeliveryDisruption, frozen=True, kw_only=True, tag="reset"):
    """Closes without an answer; `abruptly`: with a TCP reset."""

    abruptly: bool = True

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:  # noqa: ARG002  # the interface of all deliveries
        """Nothing is sent."""
        wire.close(abruptly=self.abruptly)


class Outage(Reset, frozen=True, kw_only=True, tag="outage"):
    """A reset of every connection between two instants of the simulator's clock."""

    since: float
    until: float


class WrongDate(DeliveryDisruption, frozen=True, kw_only=True, tag="wrongdate"):
    """The right answer, with a `Date` that is this many seconds ahead (or behind, if negative)."""

    seconds: float

    def deliver(self, wire: Wire, head: bytes, body: bytes) -> None:
        """Sends all of it, with the other date."""
        before, date, after = re.split(rb"(?<=\r\nDate: )([^\r]+)", head, maxsplit=1)
        wrong = parsedate_to_datetime(date.decode()).timestamp() + self.seconds
        wire.send(before + formatdate(wrong, usegmt=True).encode() + after + body)


class Lie(Disruption, frozen=True, kw_only=True):
    """Rows that are well formed and not true."""


class Stale(Lie, frozen=True, kw_only=True, tag="stale"):
    """Shows rows as they were so many seconds ago."""

    seconds: float


class Late(Lie, frozen=True, kw_only=True, tag="late"):
    """What happens to a share of the runs becomes visible only so many seconds after it happened."""

    seconds: float
    share: float = 1.0


class LostEnd(Lie, frozen=True, kw_only=True, tag="lost_end"):
    """Chosen runs never show their end: those named, those of the jobs named, and a share of all."""

    run_ids: tuple[str, ...] = ()
    job_ids: tuple[str, ...] = ()
    share: float = 0.0


class Shorter(Lie, frozen=True, kw_only=True, tag="shorter"):
    """Chosen runs that have ended show an end that is this much earlier, but not before their start."""

    seconds: float = 10.0
    run_ids: tuple[str, ...] = ()
    share: float = 0.0


class Drop(Lie, frozen=True, kw_only=True, tag="drop"):
    """Leaves out a random share of the rows, and those of the runs named."""

    share: float = 0.5
    run_ids: tuple[str, ...] = ()


class Duplicate(Lie, frozen=True, kw_only=True, tag="duplicate"):
    """Shows a random share of the rows twice."""

    share: float = 0.5


class Shuffle(Lie, frozen=True, kw_only=True, tag="shuffle"):
    """Shows the rows in a random order."""


class Nameless(Lie, frozen=True, kw_only=True, tag="nameless"):
    """Shows rows without their id: those of the runs named, and a random share of all."""

    run_ids: tuple[str, ...] = ()
    share: float = 0.0


class Contradict(Disruption, frozen=True, kw_only=True, tag="contradict"):
    """Lists show chosen runs a second time, in another state.

    Attributes:
        run_ids: Runs of which every list shows a copy.
        share: The random share of all rows that are copied besides.
        copy: How the copy looks: never ended; ended earlier; or the whole answer as it was `seconds` ago.
        seconds: See `copy`.
        copy_first: Whether the copy comes right before its row or right after it; None: by chance.
        on: Where the copy is: in the same answer as its row; or, for the runs named, on the first page or on every
            later page, if that does not hold the row.
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
