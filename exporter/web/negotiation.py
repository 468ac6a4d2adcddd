"""Chooses the format and the encoding of a response by the headers of its request."""

import functools

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@functools.lru_cache(maxsize=64)
def wants_openmetrics(accept: str) -> bool:
    """Return whether an Accept header contains OpenMetrics, with at least the q of text."""
    quality = _preferences(accept)
    openmetrics = quality.get("application/openmetrics-text", 0.0)
    text = max(quality.get(name, 0.0) for name in ("text/plain", "text/*", "*/*"))
    return 0 < openmetrics >= text


@functools.lru_cache(maxsize=64)
def wants_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header contains gzip with a q above 0."""
    return _preferences(accept_encoding).get("gzip", 0.0) > 0


def _preferences(header: str) -> dict[str, float]:
    """Return the q of each name in a header (RFC 9110, 12.4.2); of several, the largest."""
    qualities: dict[str, float] = {}
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        pairs = (parameter.partition("=") for parameter in parameters)
        text = next((value for key, _, value in pairs if key.strip() == "q"), "1")
        try:
            quality = float(text)
        except ValueError:
            quality = 0.0
        qualities[name] = max(qualities.get(name, 0.0), quality)
    return qualities
