"""What the sources of REST APIs have in common: paths, and what status words mean."""

from collections.abc import Mapping
from urllib.parse import quote

from exporter.model import Result, State

StatusTable = Mapping[str, Result | State]

LONGEST_WORD = 64
"""Characters of a status word that are kept."""


def path(endpoint: str, **parts: str) -> str:
    """The path of an endpoint (template), with its parts percent-encoded."""
    return endpoint.format_map({name: quote(part, safe="") for name, part in parts.items()})


def status_table(vendor: StatusTable, configured: StatusTable) -> StatusTable:
    """The table of status words: the vendor's, and over them those of the configuration. Letter case is ignored."""
    return {**vendor, **{spelled(word): meaning for word, meaning in configured.items()}}


def spelled(word: str) -> str:
    """A status word as tables have it: `Timed out`, `TIMED-OUT` and `timed_out` are one."""
    return "_".join(word.casefold().replace("-", " ").replace("_", " ").split())
