"""Whose requests are answered: the host they name, and the site they come from."""

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

PRIVATE = (".localhost", ".local", ".internal", ".svc")
"""Names that nobody else can have a public address made for."""


def names_us(host: str, external_url: str) -> bool:
    """Return whether a `Host` header may name us, so that no page of others can have its own name lead here.

    Without an external URL every name may. IP addresses, names without a dot and private names always may: a
    stranger's domain cannot be one of them.
    """
    ours, named = _hostname(f"//{host}"), _hostname(external_url)
    if not named or not ours or ours == named:
        return True
    return "." not in ours or ours.endswith(PRIVATE) or _is_address(ours)


def is_from_another_site(headers: Mapping[str, str], external_url: str) -> bool:
    """Return whether a browser sends this for a page that is not ours; other clients send neither header.

    A proxy may hide the name or the port under which people reach us: then `external_url` has them.
    """
    site, origin, host = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")
    if site is not None:
        return site not in ("same-origin", "none")
    if origin is None or origin == _origin(external_url):
        return False
    if ":" in host.rpartition("]")[2]:
        return origin.partition("://")[2] != host
    # no port, or one that a proxy has lost
    named = _hostname(origin)
    return not named or named != _hostname(f"//{host}")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # brackets that hold no address
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
