"""Checks whether the daemon on this machine is healthy: `python -m exporter.probe [URL]`. Containers use it.

The exit code is 0 if the daemon is healthy. The certificate is not verified, because it is not issued for the loopback
address, and no secret is sent. If pages need a password, any response counts as healthy.
"""

import http.client
import ssl
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

URL = "http://127.0.0.1:9797/-/healthy"
TIMEOUT = 3.0
HEALTHY = (200, 401)


def ask(url: str, timeout: float = TIMEOUT) -> tuple[int, str]:
    """Return status and text of the response. Raises OSError or HTTPException if there is none."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=timeout, context=_unverified())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=timeout)
    )
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        return response.status, response.read(1000).decode(errors="replace").strip()
    finally:
        connection.close()


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main(arguments: Sequence[str]) -> int:
    """Print the daemon's response. Return 0 if the daemon is healthy, otherwise 1."""
    url = arguments[0] if arguments else URL
    try:
        status, text = ask(url)
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"no response: {type(error).__name__}\n")
        return 1
    sys.stdout.write(f"{text}\n")
    return 0 if status in HEALTHY else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
