"""Chooses the format and the encoding of `/metrics` for a client."""

import functools

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@functools.lru_cache(maxsize=64)
def wants_openmetrics(accept: str) -> bool:
    """Return whether an Accept header names OpenMetrics and prefers it at least as much as text."""
    offers = _preferences(accept)
    openmetrics = offers.get("application/openmetrics-text", 0.0)
    text = max((offers.get(name, 0.0) for name in ("text/plain", "text/*", "*/*")), default=0.0)
    return 0 < openmetrics >= text


@functools.lru_cache(maxsize=64)
def wants_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header names gzip and does not refuse it."""
    return _preferences(accept_encoding).get("gzip", 0.0) > 0


def _preferences(header: str) -> dict[str, float]:
    """Return the largest q of each name (RFC 9110, 12.4.2)."""
    offers: dict[str, float] = {}
    for offer in header.lower().split(","):
        name, *parameters = (part.strip() for part in offer.split(";"))
        offers[name] = max(offers.get(name, 0.0), _quality(parameters))
    return offers


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
