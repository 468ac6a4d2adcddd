"""Makes responses that show a run twice, in two states. Rows are copied as JSON, so that it works for every vendor."""

import random
from collections.abc import Callable, Mapping

import msgspec

from exporter.simulators.disruptions import Contradict, LostEnd, Shorter, Stale, WrongAnswer
from exporter.simulators.message import Request, Response
from exporter.simulators.response_view import IDS

PAGING = frozenset({"cursor", "offset_job_id", "prev", "page"})
"""Parameters of pages other than the first."""

EVERY_RUN = 1.0
"""Fraction of runs that are copied. Later, `Contradict.share` decides which copies are shown."""

Row = dict[str, object]


def contradicted(
    request: Request,
    response: Response,
    disruption: Contradict,
    again: Callable[[Request], Response],
    generator: random.Random,
) -> Response:
    """Return the response with copies of some rows. `again`: the handler, which returns the rows of the copies."""
    if disruption.on != "same" and (disruption.on == "later") != bool(PAGING & request.query.keys()):
        return response
    document = msgspec.json.decode(response.body)
    rows = _rows(document)
    if rows is None:
        return response
    first_page = {name: value for name, value in request.query.items() if name not in PAGING}
    disrupted = msgspec.structs.replace(request, query=first_page, wrong_answers=(_copying(disruption),))
    copies = {_id(row): row for row in _rows(msgspec.json.decode(again(disrupted).body)) or []}
    rows[:] = _with_copies(rows, copies, disruption, generator)
    return msgspec.structs.replace(response, body=msgspec.json.encode(document))


def _copying(disruption: Contradict) -> WrongAnswer:
    """Return the wrong answer that makes the copies."""
    if disruption.copy == "stale":
        return Stale(seconds=disruption.seconds)
    kind = LostEnd if disruption.copy == "open" else Shorter
    return kind(run_ids=disruption.run_ids, share=EVERY_RUN if disruption.share else 0.0)


def _with_copies(
    rows: list[Row], copies: Mapping[object, Row], disruption: Contradict, generator: random.Random
) -> list[Row]:
    shown: list[Row] = []
    held = {_id(row) for row in rows}
    if disruption.on != "same":
        shown += [copy for run_id, copy in copies.items() if run_id in disruption.run_ids and run_id not in held]
        return [*shown, *rows]
    for row in rows:
        copy = copies.get(_id(row))
        if copy is None or copy == row or not _is_copied(disruption, _id(row), generator):
            shown.append(row)
            continue
        copy_first = disruption.copy_first if disruption.copy_first is not None else generator.random() < 0.5
        shown += [copy, row] if copy_first else [row, copy]
    return shown


def _is_copied(disruption: Contradict, run_id: object, generator: random.Random) -> bool:
    return run_id in disruption.run_ids or generator.random() < disruption.share


def _rows(document: object) -> list[Row] | None:
    """Return the first list of objects with IDs in a document; None if it has none."""
    if isinstance(document, list):
        return document if any(_id(row) is not None for row in document) else None
    if isinstance(document, dict):
        return next((rows for value in document.values() if (rows := _rows(value)) is not None), None)
    return None


def _id(row: object) -> object:
    return next((row[key] for key in IDS if key in row), None) if isinstance(row, dict) else None
