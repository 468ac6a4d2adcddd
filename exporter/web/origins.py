"""Checks which host a request names, and from which site it comes."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

PRIVATE = (".localhost", ".local", ".internal", ".svc")
"""Suffixes of host names that public DNS does not have."""


def is_own_host(host: str, external_url: str) -> bool:
    """Return whether a `Host` header may name this exporter. Without an external URL every name is accepted."""
    # This prevents DNS rebinding: if an attacker's domain resolves to the exporter, a page of the attacker could read
    # the exporter's pages. Such a domain is never an IP address, a name without a dot, or a private name.
    requested, external = _hostname(f"//{host}"), _hostname(external_url)
    if not external or not requested or requested == external:
        return True
    return "." not in requested or requested.endswith(PRIVATE) or _is_address(requested)


def is_from_another_site(headers: Mapping[str, str], external_url: str) -> bool:
    """Return whether a page of another site made a browser send a request. `headers`: the request's headers."""
    # Other clients than browsers send neither Sec-Fetch-Site nor Origin. Behind a proxy, the host or port in Host may
    # differ from those in Origin, and `external_url` has the right ones.
    site, origin, host = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")
    if site is not None:
        return site not in ("same-origin", "none")
    if origin is None or origin == _origin(external_url):
        return False
    if ":" in host.rpartition("]")[2]:
        return origin.partition("://")[2] != host
    # Host has no port, maybe because a proxy removed it, so only the host names are compared.
    return not _hostname(origin) or _hostname(origin) != _hostname(f"//{host}")


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
