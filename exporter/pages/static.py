"""Style sheet, script and icon of the pages."""

import hashlib
from collections.abc import Mapping

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from exporter.pages.rendering import TEMPLATES

TYPES = {
    "style.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    "symbol.svg": "image/svg+xml",
}
FOREVER = "public, max-age=31536000, immutable"


class Asset(msgspec.Struct, frozen=True):
    """Content of a file, and its version: a digest of the content."""

    content: bytes
    version: str


class Assets:
    """All assets, read once. Raises OSError if the installation is incomplete."""

    def __init__(self) -> None:
        self._assets = {name: _read(name) for name in TYPES}

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions by name."""
        return {name: asset.version for name, asset in self._assets.items()}

    async def serve(self, request: Request) -> Response:
        """Return an asset; with its version in the link, browsers may cache it forever."""
        name = request.path_params["name"]
        asset = self._assets.get(name)
        if asset is None:
            return PlainTextResponse("Not Found\n", 404)
        # a page of another version may still ask for its own file; that answer must not be cached under this link
        known = request.query_params.get("v") == asset.version
        headers = {
            "Cache-Control": FOREVER if known else "no-cache",
            "ETag": f'"{asset.version}"',
            "X-Content-Type-Options": "nosniff",
        }
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(asset.content, media_type=TYPES[name], headers=headers)


def _read(name: str) -> Asset:
    content = (TEMPLATES / "assets" / name).read_bytes()
    return Asset(content, hashlib.blake2b(content, digest_size=8).hexdigest())
