"""Checks the host that a request names, and the site that it comes from."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

PRIVATE = (".localhost", ".local", ".internal", ".svc")
"""Suffixes of host names that cannot exist in public DNS."""


def is_own_host(host: str, external_url: str) -> bool:
    """Return whether a `Host` header may name this exporter. Without an external URL every name is accepted."""
    # This prevents DNS rebinding: a page whose domain resolves to the exporter could read the exporter's pages. Such a
    # domain is never an IP address, a name without a dot or a private name.
    ours, named = _hostname(f"//{host}"), _hostname(external_url)
    if not named or not ours or ours == named:
        return True
    return "." not in ours or ours.endswith(PRIVATE) or _is_address(ours)


def is_from_another_site(headers: Mapping[str, str], external_url: str) -> bool:
    """Return whether a browser sends this request for a page of another site."""
    # Clients that are not browsers send neither header. A proxy may hide the host name or the port that people use;
    # then only `external_url` has them.
    site, origin, host = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")
    if site is not None:
        return site not in ("same-origin", "none")
    if origin is None or origin == _origin(external_url):
        return False
    if ":" in host.rpartition("]")[2]:
        return origin.partition("://")[2] != host
    # There is no port, or a proxy has dropped it.
    named = _hostname(origin)
    return not named or named != _hostname(f"//{host}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # brackets without an address
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
